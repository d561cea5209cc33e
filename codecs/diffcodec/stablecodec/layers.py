"""The networks of StableCodec's latent codec, with the names and shapes of its checkpoints."""

from collections.abc import Sequence

import torch
from compressai.layers import AttentionBlock
from torch import Tensor, nn

_BAND = 11  # length of the band kernels


class InceptionDepthwise(nn.Module):
    """Depthwise convolutions with three kernel shapes, each on an eighth of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // 8
        self.split = (channels - 3 * part, part, part, part)
        around = _BAND // 2
        self.dwconv_hw = nn.Conv2d(part, part, 3, padding=1, groups=part)
        self.dwconv_w = nn.Conv2d(part, part, (1, _BAND), padding=(0, around), groups=part)
        self.dwconv_h = nn.Conv2d(part, part, (_BAND, 1), padding=(around, 0), groups=part)

    def forward(self, x: Tensor) -> Tensor:
        rest, square, wide, high = x.split(self.split, dim=1)
        parts = [rest, self.dwconv_hw(square), self.dwconv_w(wide), self.dwconv_h(high)]
        return torch.cat(parts, dim=1)


class InceptionBlock(nn.Module):
    """x + a pointwise MLP on `InceptionDepthwise` (Yu et al., InceptionNeXt, 2024)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthconv = InceptionDepthwise(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, channels, 1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(self.act(self.conv1(self.depthconv(x))))
        return out


class GatedBlock(nn.Module):
    """x + a gated depthwise convolution of the normalized x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = nn.Conv2d(channels, 2 * hidden, 1)
        self.act = nn.GELU()
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        gate, value = self.fc1(h).chunk(2, dim=1)
        out: Tensor = x + self.fc2(self.act(gate) * self.conv(value))
        return out


class Block(nn.Module):
    """An `InceptionBlock` and a `GatedBlock`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(InceptionBlock(channels), GatedBlock(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


class TwoBranches(nn.Module):
    """The sum of two networks."""

    def __init__(self, branch1: nn.Module, branch2: nn.Module) -> None:
        super().__init__()
        self.branch1, self.branch2 = branch1, branch2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch1(x) + self.branch2(x)
        return out


def downsample(before: int, after: int) -> TwoBranches:
    """Halve height and width."""
    return TwoBranches(
        nn.Sequential(
            nn.Conv2d(before, after, 1),
            nn.GELU(),
            nn.Conv2d(after, after, 3, stride=2, padding=1),
        ),
        nn.Sequential(
            nn.Conv2d(before, after, 1),
            nn.GELU(),
            nn.Conv2d(after, after, 5, stride=2, padding=2, groups=after),
        ),
    )


def upsample(before: int, after: int) -> TwoBranches:
    """Double height and width."""

    def end() -> tuple[nn.Module, ...]:
        return nn.GELU(), nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2)

    return TwoBranches(
        nn.Sequential(nn.Conv2d(before, before, 3, padding=1), *end()),
        nn.Sequential(nn.Conv2d(before, before, 5, padding=2, groups=before), *end()),
    )


def adapter(before: int, after: int) -> TwoBranches:
    """Change the number of channels."""
    middle = (before + after) // 2
    return TwoBranches(
        nn.Sequential(
            nn.Conv2d(before, middle, 1),
            nn.GELU(),
            nn.Conv2d(middle, middle, 5, padding=2, groups=middle),
            nn.GELU(),
            nn.Conv2d(middle, after, 1),
        ),
        nn.Conv2d(before, after, 1),
    )


class Analysis(nn.Module):
    """g_a: latents (B, C, 8h, 8w) and ELIC's (B, C', 4h, 4w) -> y (B, M, h, w)."""

    def __init__(self, latent_channels: int, elic_M: int, M: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, second = widths
        of_elic = first // 3
        self.pre1 = downsample(latent_channels, first - of_elic)
        self.pre2 = nn.Conv2d(elic_M, of_elic, 3, padding=1)
        self.analysis_transform = nn.Sequential(
            *(Block(first), downsample(first, second)),
            *(Block(second), downsample(second, M)),
            Block(M),
        )

    def forward(self, latent: Tensor, of_elic: Tensor) -> Tensor:
        y: Tensor = self.analysis_transform(
            torch.cat([self.pre1(latent), self.pre2(of_elic)], dim=1)
        )
        return y


class Chain(nn.Module):
    """A sequence of layers under the name that it has in the checkpoints."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(self.name)(x)
        return out


def synthesis(M: int) -> Chain:
    """g_s: y_hat (B, M, h, w) -> input of the U-Net, (B, M, 8h, 8w)."""
    return Chain(
        "synthesis_transform",
        *(layer for _ in range(3) for layer in (Block(M), upsample(M, M))),
    )


def auxiliary_decoder(latent_channels: int, M: int, widths: Sequence[int]) -> Chain:
    """The auxiliary decoder: y_hat (B, M, h, w) -> a term for the latents, (B, C, 8h, 8w)."""
    first, second = widths
    return Chain(
        "block",
        *(Block(M), upsample(M, second), Block(second), upsample(second, first)),
        *(Block(first), upsample(first, latent_channels)),
    )


def hyper_analysis(M: int) -> Chain:
    """h_a: y (B, M, 4h, 4w) -> z (B, M / 2, h, w)."""
    return Chain(
        "reduction",
        nn.Conv2d(M, M // 2, 3, stride=2, padding=1),
        Block(M // 2),
        nn.Conv2d(M // 2, M // 2, 3, stride=2, padding=1),
    )


def hyper_synthesis(M: int) -> Chain:
    """h_s: z_hat (B, M / 2, h, w) -> a first estimate of y, (B, M, 4h, 4w)."""
    return Chain(
        "increase",
        *(nn.Conv2d(M // 2, 2 * M, 1), nn.PixelShuffle(2)),
        Block(M // 2),
        *(nn.Conv2d(M // 2, 4 * M, 1), nn.PixelShuffle(2)),
    )


class Bottleneck(nn.Module):
    """x + a bottleneck with half the channels and ReLUs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            *(nn.Conv2d(channels, half, 1), nn.ReLU()),
            *(nn.Conv2d(half, half, 3, padding=1), nn.ReLU()),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


def elic_analysis(N: int, M: int) -> Chain:
    """The analysis transform of ELIC: images (B, 3, H, W) in [0, 1] -> (B, M, H / 16, W / 16)."""

    def halved(before: int, after: int) -> nn.Conv2d:
        return nn.Conv2d(before, after, 5, stride=2, padding=2)

    def bottlenecks() -> list[nn.Module]:
        return [Bottleneck(N) for _ in range(3)]

    return Chain(
        "analysis_transform",
        *(halved(3, N), *bottlenecks()),
        *(halved(N, N), *bottlenecks(), AttentionBlock(N)),
        *(halved(N, N), *bottlenecks()),
        *(halved(N, M), AttentionBlock(M)),
    )
