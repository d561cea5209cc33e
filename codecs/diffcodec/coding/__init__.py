"""Entropy coding and the container of streams."""
