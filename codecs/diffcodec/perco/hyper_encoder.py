"""PerCo's hyper-encoder (Sec. 3.2): latents of the autoencoder -> vector-quantised codes.

latent (B, 4, 64, 64) -> backbone -> z (B, M, grid, grid) -> VQ -> indices, z_hat (B, M, grid, grid)

The layers, their order and their names are those that the authors gave to the public
reimplementation, so that its checkpoints load.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffcodec.perco.rates import Rate


class ResidualBottleneck(nn.Module):
    """x + 1x1, 3x3 and 1x1 convolutions, half the channels in the middle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = _bottleneck(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class ResidualUnit(nn.Module):
    """The same followed by a ReLU, as in the attention block of Cheng et al. (2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _bottleneck(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


class Attention(nn.Module):
    """x + a(x) * sigmoid(b(x)): convolutions that weight themselves (Cheng et al. 2020)."""

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

    Without quantisation z_hat is z, and there are no indices.
    """

    z: Tensor
    z_hat: Tensor
    indices: Tensor | None
    commit_loss: Tensor


class HyperEncoder(nn.Module):
    """Backbone and vector quantiser of one rate.

    Args:
        rate: grid and size of the codebook.
        in_channels: of the autoencoder's latent.
        N, M: channels inside and of z.
        codebook_dim: to which z is projected for the search, 32 in the paper.
        cosine: search by cosine similarity, as Yu et al. (2022), from whom the paper takes the low
            dimension of its codes, and as the public reimplementation does; false is Euclidean.
            The paper does not say which it is.
        decay: of the moving averages that make the codebook.
        dead_code_threshold: codes whose average use falls below it are replaced by vectors of the
            batch, drawn at random, which on several processes are others than on one; 0: never.
        quantize: false leaves the quantiser out, as the paper compares with (Table 1).
        latent_stride: pixels per latent, a power of two up to 8.
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
        # The last stages halve first: grid 32 has one stride, grid 8 three.
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
            # The paper's gradients are straight-through; the library has since changed its own.
            "rotation_trick": False,
        }
        self.quantize = quantize
        self.quantizer: Any = self._build_quantizer(sync=False) if quantize else None

    def share_codebook(self) -> None:
        """Average the codebook's statistics over all processes, whose group must exist."""
        if not self.quantize:
            return
        state = self.quantizer.state_dict()
        device = next(self.parameters()).device
        self.quantizer = self._build_quantizer(sync=True).to(device)
        self.quantizer.load_state_dict(state)

    def forward(self, latent: Tensor) -> HyperEncoding:
        """Latent (B, C, H, W) -> `HyperEncoding`; in train mode the codebook moves."""
        z = self.backbone(latent)
        if not self.quantize:
            return HyperEncoding(z, z, None, z.new_zeros(()))
        height, width = z.shape[-2:]
        # (b, n, d): the library's own reading of feature maps fails with projections
        z_hat, indices, commit_loss = self.quantizer(z.flatten(2).transpose(1, 2))
        return HyperEncoding(
            z,
            z_hat.transpose(1, 2).unflatten(2, (height, width)),
            indices.unflatten(1, (height, width)),
            commit_loss,
        )

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        """Latent (B, C, H, W) -> indices (B, h, w); the codebook stays as it is.

        Without quantisation z itself, (B, M, h, w).
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
        """What `codes` returns -> z_hat (B, M, h, w), exactly that of `forward` in eval mode."""
        if not self.quantize:
            return codes
        z_hat: Tensor = self.quantizer.get_output_from_indices(codes.flatten(1))
        return z_hat.transpose(1, 2).unflatten(2, tuple(codes.shape[1:]))

    def _build_quantizer(self, *, sync: bool) -> nn.Module:
        from vector_quantize_pytorch import VectorQuantize

        # Left to itself the library asks whether a process group exists now, before it does.
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
