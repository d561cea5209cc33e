"""Entropy coding of latents."""
