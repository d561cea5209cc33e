"""SDEdit over any codec: noise on what it decoded, and a diffusion model back to none."""
