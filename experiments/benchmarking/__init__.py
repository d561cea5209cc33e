"""How fast a codec is, and where the time goes."""
