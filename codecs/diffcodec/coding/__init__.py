"""Entropy coding and the bitstream container."""
