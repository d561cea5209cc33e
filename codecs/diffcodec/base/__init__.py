"""Base codecs: the ones that are enhanced and compared with."""
