"""CDC's transforms and entropy models: encoder, mean-scale hyperprior and context decoder.

x -> g_a -> y -> h_a -> z -> factorized prior -> bits
            y | h_s(z_hat) = (mean, scale) -> Gaussian conditional -> bits
y_hat -> g_s -> context maps, one per resolution
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffcodec.cdc.layers import ResBlock, downsample, upsample

MIN_SCALE = 0.1
SLOPE = 0.2  # of the hyperprior's leaky ReLU


@dataclass
class Latents:
    """The latents of images (B, 3, H, W) and their likelihoods.

    Attributes:
        y, y_hat: latent and quantized latent, (B, C, H / 16, W / 16).
        z_hat: quantized hyper-latent, (B, C', H / 64, W / 64).
        means, scales: parameters of y's Gaussians, shaped as y; scales are at least `MIN_SCALE`.
        likelihoods: likelihoods of `y` and `z`; training replaces rounding by uniform noise.
    """

    y: Tensor
    y_hat: Tensor
    z_hat: Tensor
    means: Tensor
    scales: Tensor
    likelihoods: dict[str, Tensor]

    def bits(self) -> Tensor:
        """Estimated number of bits of each image, (B,)."""
        return sum(
            (-p.log2().flatten(1).sum(1) for p in self.likelihoods.values()), self.y.new_zeros(())
        )


class Down(nn.Module):
    """A stage of the encoder: a residual block, then a downsampling by 2."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.res = ResBlock(in_channels, out_channels, kernel_size=kernel_size)
        self.resample = downsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.res(x))


class Up(nn.Module):
    """A stage of the context decoder: a residual block, then an upsampling by 2."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.res = ResBlock(in_channels, mid_channels)
        self.resample = upsample(mid_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.res(x))


class Compressor(nn.Module):
    """Images -> quantized latents with their likelihoods -> context maps.

    Args:
        width: number of channels of the first stage.
        multipliers: channels of the encoder's stages as multiples of `width`; each stage halves
            the resolution.
        hyper_multipliers: channels of h_a's three convolutions as multiples of `width`.
        context_channels: number of channels of the context map at full resolution.
    """

    def __init__(
        self,
        width: int,
        multipliers: Sequence[int],
        hyper_multipliers: Sequence[int],
        context_channels: int,
    ) -> None:
        from compressai.entropy_models import EntropyBottleneck, GaussianConditional

        super().__init__()
        dims = [width * m for m in multipliers]
        hyper = [width * m for m in hyper_multipliers]
        inputs = [3, *dims[:-1]]
        outputs = [context_channels, *dims[:-1]]
        self.g_a = nn.Sequential(
            *(
                Down(a, b, 7 if i == 0 else 3)
                for i, (a, b) in enumerate(zip(inputs, dims, strict=True))
            )
        )
        # The last stage (i = 0) reduces channels in its upsampling, not in its residual block.
        self.g_s = nn.ModuleList(
            Up(dims[i], outputs[i] if i else dims[0], outputs[i])
            for i in reversed(range(len(dims)))
        )
        self.h_a = nn.Sequential(
            nn.Conv2d(dims[-1], hyper[0], 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hyper[0], hyper[1], 5, stride=2, padding=2),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hyper[1], hyper[2], 5, stride=2, padding=2),
        )
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(hyper[2], hyper[1], 5, stride=2, padding=2, output_padding=1),
            nn.LeakyReLU(SLOPE),
            nn.ConvTranspose2d(hyper[1], hyper[0], 5, stride=2, padding=2, output_padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hyper[0], 2 * dims[-1], 3, padding=1),
        )
        # Neither module ever holds entropy tables: `cdc.coder` builds them outside, so that the
        # state dict has the same shapes before and after coding.
        self.entropy_bottleneck = EntropyBottleneck(hyper[2], filters=(3, 3, 3))
        self.gaussian_conditional = GaussianConditional(None, scale_bound=MIN_SCALE)

    def forward(self, x: Tensor) -> Latents:
        """Encode images.

        Args:
            x: images (B, 3, H, W) in [-1, 1]; H and W are multiples of 64.
        """
        y = self.g_a(x)
        z = self.h_a(y)
        # Likelihoods and rounding need float32, also under autocast.
        with torch.autocast(x.device.type, enabled=False):
            return self._quantize(y.float(), z.float())

    def _quantize(self, y: Tensor, z: Tensor) -> Latents:
        from compressai.ops import quantize_ste

        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self.medians()[:, None, None]
        z_hat = quantize_ste(z - medians) + medians
        means, scales = self.h_s(z_hat).chunk(2, dim=1)
        _, y_likelihoods = self.gaussian_conditional(y, scales, means)
        # The decoder's loss has a gradient for y. The means get theirs from the rate only.
        y_hat = quantize_ste(y - means.detach()) + means.detach()
        return Latents(
            y=y,
            y_hat=y_hat,
            z_hat=z_hat,
            means=means,
            scales=self.gaussian_conditional.lower_bound_scale(scales),
            likelihoods={"y": y_likelihoods, "z": z_likelihoods},
        )

    @torch.no_grad()
    def widen(self, gain: float) -> None:
        """Multiply the weights of g_a's last convolution by a factor, but not its bias."""
        self.g_a[-1].resample.weight.mul_(gain)  # type: ignore[operator, union-attr]

    def medians(self) -> Tensor:
        """Medians of the factorized prior, (C',); z is rounded relative to them."""
        return self.entropy_bottleneck.quantiles[:, 0, 1].detach()

    def contexts(self, y_hat: Tensor) -> list[Tensor]:
        """Quantized latents (B, C, H / 16, W / 16) -> context maps, finest first.

        Map i has the shape (B, C_i, H / 2^i, W / 2^i).
        """
        maps = []
        for stage in self.g_s:
            y_hat = stage(y_hat)
            maps.append(y_hat)
        return maps[::-1]
