"""Shared tools for image networks: padding, tiles, precision."""
