"""Noise schedules, denoisers, guidance and samplers, independent of codecs."""
