"""Stable Diffusion as the prior: add noise to latents, then denoise with an empty prompt."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.diffusion.denoiser import Denoiser, VPDenoiser, like
from diffcodec.diffusion.schedule import TimeTable
from diffcodec.latent.stable_diffusion import load_pipeline
from diffcodec.sdedit.conventions import Convention, convention_of
from diffcodec.sdedit.prior import Prior
from diffcodec.weights.sources import find_pipeline

LCM_TIME_SCALE = 10.0  # scales timesteps in a latent consistency model's boundary condition
LCM_SIGMA_DATA = 0.5


class LatentPrior(Prior):
    """A latent diffusion model, optionally with a one-step latent consistency or turbo U-Net.

    The paper proposes a latent prior for images for which no consistency model exists (Sec. 6). The
    autoencoder's loss limits the quality at any strength above 0.

    Args:
        source: Stable Diffusion 1.x or 2.x in diffusers' layout: `hf://owner/repo[@revision]` or a
            folder.
        consistency: source of a U-Net in the same latent space for the preset fast. A U-Net with a
            guidance embedding is a latent consistency model; any other (turbo) is evaluated once
            as a denoiser. None disables the preset fast.
        guidance: guidance scale that a latent consistency model is conditioned on. An empty prompt
            needs no guidance, but the model was trained for some scales only.
        window: side of the tiles in pixels, a multiple of 64; None processes images whole.

    Raises:
        ValueError: a source cannot be loaded or is not such a pipeline, or the window is not a
            multiple of 64.
    """

    text: Tensor

    def __init__(
        self,
        source: str,
        consistency: str | None = None,
        *,
        guidance: float = 7.5,
        window: int | None = None,
    ) -> None:
        pipeline = load_pipeline(source)
        if pipeline.text_encoder_2 is not None:
            raise ValueError(f"the prior must be a Stable Diffusion 1.x or 2.x, not XL: {source!r}")
        unet: Any = pipeline.unet
        stride = pipeline.latents.stride
        multiple = stride * int(2 ** (len(unet.config.block_out_channels) - 1))
        if window is not None and window % multiple:
            raise ValueError(f"window must be a multiple of {multiple}, got {window}")
        super().__init__(None if window is None else window // stride)
        self._stride, self.multiple = stride, multiple
        self.latents = pipeline.latents
        self.unet = unet
        with torch.no_grad():
            tokens = pipeline.tokenizer([""])
            text: Tensor = pipeline.text_encoder(tokens).last_hidden_state
        self.register_buffer("text", text)
        self._convention: Convention = convention_of(pipeline.scheduler)
        if self._convention.table is None:
            raise ValueError(
                f"the scheduler of {source!r} does not belong to a latent diffusion model"
            )
        self.max_sigma = self._convention.max_sigma
        self.consistency_unet: Any = None if consistency is None else _load_unet(consistency)
        self._guidance = guidance

    @property
    def min_side(self) -> int:
        return (self.window or 0) * self._stride

    def encode(self, x: Tensor) -> Tensor:
        return self.latents.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.latents.decode(z)

    def unets(self) -> list[nn.Module]:
        return [unet for unet in (self.unet, self.consistency_unet) if unet is not None]

    def build_denoiser(self) -> Denoiser:
        return self._convention.wrap(self._network(self.unet))

    def build_consistency(self) -> Denoiser:
        unet = self.consistency_unet
        if unet is None:
            raise ValueError("preset fast needs codec.prior.consistency")
        one_step = self._convention.wrap(self._network(unet))
        if unet.config.time_cond_proj_dim is None:
            return one_step
        table = self._convention.table
        assert isinstance(one_step, VPDenoiser)
        assert table is not None
        return LatentConsistency(one_step, table)

    def _network(self, unet: Any) -> Any:
        condition = {}
        size = unet.config.time_cond_proj_dim
        if size is not None:
            condition["timestep_cond"] = guidance_embedding(self._guidance, size)

        def network(x: Tensor, time: Tensor) -> Tensor:
            options = {k: v.to(x).expand(len(x), -1) for k, v in condition.items()}
            text = self.text.to(x).expand(len(x), -1, -1)
            out: Tensor = unet(x, time, encoder_hidden_states=text, **options).sample
            return out

        return network


class LatentConsistency:
    """The consistency function of a latent consistency model (Luo et al. 2023, Eq. 9).

    Args:
        denoiser: denoiser around the network.
        table: mapping of sigma to the timestep.
    """

    def __init__(self, denoiser: VPDenoiser, table: TimeTable) -> None:
        self.denoiser = denoiser
        self.table = table

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        time = LCM_TIME_SCALE * self.table(sigma.double()).double()
        total = time**2 + LCM_SIGMA_DATA**2
        c_skip, c_out = LCM_SIGMA_DATA**2 / total, time / total.sqrt()
        x_t = like(x, (1 + sigma.double() ** 2).rsqrt()) * x
        return like(x, c_skip) * x_t + like(x, c_out) * self.denoiser(x, sigma, **condition)


def guidance_embedding(guidance: float, size: int) -> Tensor:
    """Sinusoidal embedding of the guidance scale for a latent consistency model, (1, size)."""
    half = size // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / max(1, half - 1))
    angles = 1000 * guidance * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()])
    return nn.functional.pad(embedding, (0, size % 2))[None]


def _load_unet(source: str) -> Any:
    from diffusers import UNet2DConditionModel

    place, options = find_pipeline(source)
    try:
        try:
            unet: Any = UNet2DConditionModel.from_pretrained(place, subfolder="unet", **options)
        except OSError:
            unet = UNet2DConditionModel.from_pretrained(place, **options)  # the U-Net alone
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"could not load a U-Net from {source!r}: {error}") from error
    return unet.float()
