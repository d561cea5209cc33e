"""Latent diffusion models shared by several codecs.

A backbone has an autoencoder, a U-Net in its latent space, a text encoder that conditions the U-Net
and a noise schedule.
"""
