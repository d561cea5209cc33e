"""PerCo's hyper-encoder (Sec. 3.2): latents of the autoencoder -> vector-quantized codes.

latent (B, 4, 64, 64) -> backbone -> z (B, M, grid, grid) -> VQ -> indices, z_hat (B, M, grid, grid)

Layers and their names match those of the public reimplementation, which has them from the authors,
so that its checkpoints load.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffcodec.perco.rates import Rate


class ResidualBottleneck(nn.Module):
    """x + bottleneck(x): 1x1, 3x3 and 1x1 convolutions with half the channels in the middle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = _bottleneck(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class ResidualUnit(nn.Module):
    """A residual bottleneck followed by a ReLU, from the attention block of Cheng et al. (2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _bottleneck(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


class Attention(nn.Module):
    """The attention block x + a(x) * sigmoid(b(x)) of Cheng et al. (2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(
            *(ResidualUnit(channels) for _ in range(3)), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_a(x) * self.conv_b(x).sigmoid()
        return out


class HyperEncoding(NamedTuple):
    """z and z_hat (B, M, h, w), indices (B, h, w) and the commitment loss, () (Eq. 4).

    Without quantization, z_hat is z and indices is None.
    """

    z: Tensor
    z_hat: Tensor
    indices: Tensor | None
    commit_loss: Tensor


class HyperEncoder(nn.Module):
    """Backbone and vector quantizer of one rate.

    Args:
        rate: grid and size of the codebook.
        in_channels: number of channels of the autoencoder's latent.
        N, M: numbers of channels of the hidden layers and of z.
        codebook_dim: dimension to which z is projected for the search, 32 in the paper.
        cosine: search codes by cosine similarity; false selects Euclidean distance. The paper does
            not specify the distance. Cosine is that of the public reimplementation and of Yu et al.
            (2022), from whom the paper takes its low-dimensional codes.
        decay: decay of the codebook's moving averages.
        dead_code_threshold: average use below which a code is replaced by a random vector of the
            batch; 0 never replaces codes. The drawn vectors depend on the number of processes.
        quantize: false omits the quantizer, for the paper's comparison in Table 1.
        latent_stride: pixels per latent and side, a power of two up to 8.

    Raises:
        ValueError: pixels per code / latent_stride is not 1, 2, 4 or 8.
    """

    def __init__(
        self,
        rate: Rate,
        *,
        in_channels: int = 4,
        N: int = 192,
        M: int = 320,
        codebook_dim: int = 32,
        cosine: bool = True,
        decay: float = 0.8,
        dead_code_threshold: float = 0,
        quantize: bool = True,
        latent_stride: int = 8,
    ) -> None:
        super().__init__()
        self.rate = rate
        halvings = rate.pixels_per_code.bit_length() - latent_stride.bit_length()
        if not 0 <= halvings <= 3 or rate.pixels_per_code != latent_stride << halvings:
            raise ValueError(
                f"rate {rate.name} has one code per {rate.pixels_per_code} pixels, the latent one "
                f"vector per {latent_stride}: the ratio must be 1, 2, 4 or 8"
            )
        # Strides are assigned from the last stage on: grid 32 has one, grid 8 has three.
        self.backbone = nn.Sequential(
            _stage_conv(in_channels, N, halve=halvings == 3),
            *(ResidualBottleneck(N) for _ in range(3)),
            _stage_conv(N, N, halve=halvings >= 2),
            *(ResidualBottleneck(N) for _ in range(3)),
            Attention(N),
            _stage_conv(N, N, halve=halvings >= 1),
            *(ResidualBottleneck(N) for _ in range(3)),
            nn.Conv2d(N, M, 1),
            Attention(M),
        )
        self._options = {
            "dim": M,
            "codebook_size": rate.num_codes,
            "codebook_dim": codebook_dim,
            "use_cosine_sim": cosine,
            "decay": decay,
            "threshold_ema_dead_code": dead_code_threshold,
            # The paper uses straight-through gradients, which are no longer the library's default.
            "rotation_trick": False,
        }
        self.quantize = quantize
        self.quantizer: Any = self._build_quantizer(sync=False) if quantize else None

    def share_codebook(self) -> None:
        """Average the codebook's statistics over all processes; needs the process group."""
        if not self.quantize:
            return
        alone = self.quantizer
        device = next(self.parameters()).device
        self.quantizer = self._build_quantizer(sync=True).to(device).train(alone.training)
        self.quantizer.load_state_dict(alone.state_dict())

    def forward(self, latent: Tensor) -> HyperEncoding:
        """Latent (B, C, H, W) -> `HyperEncoding`; updates the codebook in train mode."""
        z = self.backbone(latent)
        if not self.quantize:
            return HyperEncoding(z, z, None, z.new_zeros(()))
        height, width = z.shape[-2:]
        # (b, n, d): the library's support of feature maps fails with projections
        z_hat, indices, commit_loss = self.quantizer(z.flatten(2).transpose(1, 2))
        return HyperEncoding(
            z,
            z_hat.transpose(1, 2).unflatten(2, (height, width)),
            indices.unflatten(1, (height, width)),
            commit_loss,
        )

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        """Latent (B, C, H, W) -> indices (B, h, w), without updating the codebook.

        Without quantization, returns z (B, M, h, w).
        """
        if not self.quantize:
            z: Tensor = self.backbone(latent)
            return z
        training = self.quantizer.training
        self.quantizer.eval()
        try:
            indices: Tensor = self(latent).indices
            return indices
        finally:
            self.quantizer.train(training)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Result of `codes` -> z_hat (B, M, h, w), identical to that of `forward` in eval mode."""
        if not self.quantize:
            return codes
        z_hat: Tensor = self.quantizer.get_output_from_indices(codes.flatten(1))
        return z_hat.transpose(1, 2).unflatten(2, tuple(codes.shape[1:]))

    def _build_quantizer(self, *, sync: bool) -> nn.Module:
        from vector_quantize_pytorch import VectorQuantize

        # By default the library checks for a process group here, before the group exists.
        module: nn.Module = VectorQuantize(**self._options, sync_codebook=sync)
        return module


def _bottleneck(channels: int) -> nn.Sequential:
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(channels, half, 1),
        nn.ReLU(),
        nn.Conv2d(half, half, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(half, channels, 1),
    )


def _stage_conv(in_channels: int, out_channels: int, *, halve: bool) -> nn.Conv2d:
    if halve:
        return nn.Conv2d(in_channels, out_channels, 5, stride=2, padding=2)
    return nn.Conv2d(in_channels, out_channels, 1)
