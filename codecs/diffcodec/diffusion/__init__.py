"""Diffusion without codecs: noise schedules, denoisers and samplers."""
