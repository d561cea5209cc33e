"""From text and codes to a latent: DDIM with guidance on the text."""

import hashlib

import torch
from torch import Tensor

from diffcodec.diffusion.guidance import ClassifierFreeGuidance
from diffcodec.diffusion.sampler import ddim
from diffcodec.perco.backbone import Backbone
from diffcodec.perco.process import LatentProcess, pure_noise


def sample_latent(
    backbone: Backbone,
    process: LatentProcess,
    *,
    size: tuple[int, int],
    text: Tensor,
    null: Tensor,
    local: Tensor | None,
    seed: int,
    num_steps: int,
    guidance: float,
    bf16: bool = False,
) -> Tensor:
    """Sample one latent (1, C, H, W) by deterministic DDIM from pure noise (Sec. 4.1, App. A).

    Args:
        backbone, process: the model.
        size: H and W of the latent.
        text, null: embeddings of the caption and of no caption, (1, L, D).
        local: z_hat (1, M, h, w), or None for a U-Net that takes none.
        seed: of the noise, drawn on the CPU: it is the same on every device.
        num_steps: of DDIM.
        guidance: lambda_s of Eq. 5, on the text alone.
        bf16: run the U-Net in bfloat16.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, backbone.latents.channels, *size), generator=generator).to(text)
    sigmas = process.sampling_sigmas(num_steps)
    with torch.autocast(text.device.type, torch.bfloat16, enabled=bf16):
        denoiser = process.denoiser(
            lambda *args, **condition: backbone.network(*args, **condition).float()
        )
        guided = ClassifierFreeGuidance(denoiser, guidance, {"text": null})
        return ddim(guided, pure_noise(noise, sigmas[0]), sigmas, text=text, local=local)


def seed_of_sample(seed: int, sample: int) -> int:
    """The seed of the i-th reconstruction of one stream; the first is the stream's own."""
    if sample == 0:
        return seed
    digest = hashlib.sha256(f"{seed} {sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
