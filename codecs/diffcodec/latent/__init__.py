"""The latent diffusion model that several methods share: an autoencoder, a U-Net in its latent
space, the text encoder that conditions it, and its noise schedule."""
