"""The networks of ST-LPIPS, a perceptual distance with weights from a Python package."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.metrics.networks.originals import Originals, normalized

PACKAGE = "pip://stlpips_pytorch/stlpips_pytorch/weights/vST0.0"
WEIGHTS = {
    "alex": f"{PACKAGE}/alex_shift_tolerant.pth"
    "#sha256=b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "vgg": f"{PACKAGE}/vgg_shift_tolerant.pth"
    "#sha256=44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
}
WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
MIN_SIDE = 32  # the networks downsample four times by 2, with reflection padding

# Key table: the authors' checkpoints -> this module.
_KEYS = [
    (r"scaling_layer\.", ""),
    (r"net\.slice\d\.", "features."),
    (r"lin(\d)\.model\.1\.", r"heads.\1."),
]


class ShiftTolerantLpips(nn.Module):
    """ST-LPIPS (Ghildyal & Liu, ECCV 2022), frozen: an LPIPS that tolerates shifts by a pixel.

    The networks are AlexNet and VGG16 with a blur filter before each downsampling. The first
    convolution of AlexNet has stride 1. The distance sums the spatial means of weighted squared
    differences between unit-normalized features over five layers (Zhang et al. 2018, Eq. 1).

    Args:
        net: network, `alex` (the authors' choice) or `vgg`.
        weights: source of the authors' checkpoint, see `diffcodec.weights`; None selects the file
            in the package `stlpips_pytorch`.

    Raises:
        ValueError: the network is unknown, or its weights cannot be loaded.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, weights: str | None = None) -> None:
        from diffcodec.weights.loading import load_checkpoint, load_strict, remap

        if net not in WEIGHTS:
            raise ValueError(f"unknown ST-LPIPS network {net!r}, choose from {tuple(WEIGHTS)}")
        super().__init__()
        self.features, self._taps = _alexnet() if net == "alex" else _vgg16()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in WIDTHS[net])
        source = WEIGHTS[net] if weights is None else weights
        try:
            load_strict(self, remap(load_checkpoint(source), _KEYS), source=source)
        except ValueError as error:
            raise ValueError(f"no weights for ST-LPIPS ({net}): {error}") from error
        self.requires_grad_(False).eval()
        self._originals = Originals(self.embed)

    def embed(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] -> unit-normalized features of five layers."""
        # On a CPU, pooling is several times faster in the channels-last format.
        h = ((x - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        first, features = 0, []
        if isinstance(self.features[1], BlurPool):
            h, first = convolve_and_blur(h, self.features[0], self.features[1]), 2
        for start, stop in pairwise([first, *self._taps]):
            h = self.features[start:stop](h)
            features.append(F.normalize(h, dim=1, eps=1e-10))
        return features

    def distance(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [-1, 1]."""
        return self._compare(self.embed(x), self.embed(x_hat))

    def map(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distance map (H, W) of two uint8 images (3, H, W), before the spatial mean.

        The map of each layer is resized bilinearly to the image, as in LPIPS's spatial mode, and
        the layers are summed. H and W must be at least 32.
        """
        maps = self._maps(self._originals(x), self.embed(normalized(x_hat)))
        size = x.shape[-2:]
        resized = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
        return torch.stack(resized).sum(0)[0, 0]

    def _maps(self, of_x: Sequence[Tensor], of_x_hat: Sequence[Tensor]) -> list[Tensor]:
        """The weighted squared differences of each layer, (B, 1, h, w)."""
        layers = zip(self.heads, of_x, of_x_hat, strict=True)
        return [head((a - b) ** 2) for head, a, b in layers]

    def _compare(self, of_x: Sequence[Tensor], of_x_hat: Sequence[Tensor]) -> Tensor:
        return torch.stack([m.mean(dim=(1, 2, 3)) for m in self._maps(of_x, of_x_hat)]).sum(0)

    def forward(self, x: Tensor, x_hat: Tensor) -> float | None:
        """ST-LPIPS of two uint8 images (3, H, W); None if a side is shorter than 32 pixels."""
        if min(x.shape[-2:]) < MIN_SIDE:
            return None
        return float(self._compare(self._originals(x), self.embed(normalized(x_hat))))


class BlurPool(nn.Module):
    """Downsampling by 2 with a binomial 3x3 filter and reflection padding of 2 (Zhang, 2019)."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil((H + 2) / 2), ceil((W + 2) / 2))."""
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.filt, stride=2, groups=x.shape[1])


def convolve_and_blur(x: Tensor, conv: nn.Conv2d, blur: BlurPool) -> Tensor:
    """Compute `blur(conv(x))`, for a convolution with stride 1, as one convolution with stride 2.

    This computes a quarter of the outputs, with little more work per output. At the borders, where
    the blur reflects the outputs of the convolution, both are computed in sequence.
    """
    side, pad = conv.kernel_size[0], int(conv.padding[0])
    weight = F.conv_transpose2d(conv.weight.flatten(0, 1)[:, None], blur.filt[:1])
    weight = weight.view(*conv.weight.shape[:2], side + 2, side + 2)
    out = F.conv2d(x, weight, conv.bias, stride=2, padding=pad + 2)
    for dim in (-2, -1):
        size = x.shape[dim]
        even = (size + 2 * pad - side) % 2  # whether the number of outputs of `conv` is even
        for index, keep in ((0, 3), (-1, 3 + even)):
            near = keep + side - 1 - pad
            strip = conv(x.narrow(dim, index * near % size, near))
            strip = strip.narrow(dim, index * keep % strip.shape[dim], keep)
            out.select(dim, index).copy_(blur(strip).select(dim, index))
    return out


def _alexnet() -> tuple[Any, list[int]]:
    """The layers, and the numbers of layers after which features are extracted."""
    layers = [
        *(nn.Conv2d(3, 64, 11, padding=2), BlurPool(64), nn.ReLU()),
        *(nn.MaxPool2d(3, 1), BlurPool(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        *(nn.MaxPool2d(3, 1), BlurPool(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    return nn.Sequential(*layers), [3, 7, 11, 13, 15]


def _vgg16() -> tuple[Any, list[int]]:
    layers: list[nn.Module] = []
    taps = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        if layers:
            layers += [nn.MaxPool2d(2, 1), BlurPool(channels)]
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        taps.append(len(layers))
    return nn.Sequential(*layers), taps
