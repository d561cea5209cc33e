"""Latents <-> bytes, with CompressAI's entropy models and tables that are the same everywhere."""

import copy
import math
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from diffcodec.bitstream import BitstreamError
from diffcodec.cdc.compressor import MIN_SCALE, Compressor, Latents
from diffcodec.entropy import build_tables, rans_decode, rans_encode
from diffcodec.exact import ExactConvolutions
from diffcodec.tiles import by_tiles

NUM_SCALES = 128
MAX_SCALE = 256.0
TAIL_MASS = 1e-9
# Symbols that no sensible network makes: the encoder clamps to them, the decoder refuses beyond.
MAX_Y_SYMBOL = 1 << 14
MAX_Z_SYMBOL = 1 << 10
WINDOW = 64  # values of z a side that the hyper-synthesis sees at once
_UP = 4  # values of y for one of z


class LatentCoder:
    """Codes the latents of one image; built from a compressor's weights, and frozen.

    Images of any size fit: the synthesis, of integers, is the same in tiles as in one, with the two
    values of z around each that three convolutions at one, two and four times its size can see.

    It is no module: what it holds follows from the weights, stays on the CPU and is not saved.

    Args:
        compressor: whose hyperprior it codes with.
    """

    def __init__(self, compressor: Compressor) -> None:
        from compressai.entropy_models import EntropyBottleneck, GaussianConditional

        self.synthesis = ExactConvolutions(compressor.h_s, name="hyper-synthesis")
        self._prior: EntropyBottleneck = copy.deepcopy(compressor.entropy_bottleneck).cpu()
        build_tables(self._prior)
        self._medians = compressor.medians().cpu().double()[:, None, None]
        self._gaussian = GaussianConditional(
            scale_table(), scale_bound=MIN_SCALE, tail_mass=TAIL_MASS
        )
        build_tables(self._gaussian)
        self._borders = _scale_borders()

    def tables(self) -> dict[str, Tensor]:
        """The integer tables that the decoder must share."""
        return {
            f"{name}.{key}": getattr(model, key)
            for name, model in {"z": self._prior, "y": self._gaussian}.items()
            for key in ("_quantized_cdf", "_cdf_length", "_offset")
        }

    def encode(self, y: Tensor, z: Tensor) -> tuple[list[bytes], Tensor]:
        """Latents of one image -> sections for z and y, and the y_hat that the decoder will have.

        Args:
            y, z: (1, C, 4h, 4w) and (1, C', h, w), unquantised, on any device.
        """
        z_symbols = (z.cpu().double() - self._medians).round()
        z_symbols = z_symbols.nan_to_num().clamp(-MAX_Z_SYMBOL, MAX_Z_SYMBOL)
        means, indexes = self._parameters(z_symbols)
        y_symbols = (y.cpu().double() - means).round()
        y_symbols = y_symbols.nan_to_num().clamp(-MAX_Y_SYMBOL, MAX_Y_SYMBOL)
        sections = [
            rans_encode(z_symbols, _channel_indexes(z_symbols.shape), self._prior),
            rans_encode(y_symbols, indexes, self._gaussian),
        ]
        return sections, (y_symbols + means).float()

    def decode(self, sections: list[bytes], height: int, width: int) -> Tensor:
        """Sections -> y_hat (1, C, 4 height, 4 width), float32 on the CPU.

        Args:
            sections: of z and y.
            height, width: of z.

        Raises:
            BitstreamError: they are not what `encode` writes for an image of that size.
        """
        if len(sections) != 2:
            raise BitstreamError(f"an image has 2 sections, z and y, got {len(sections)}")
        shape = torch.Size((1, len(self._medians), height, width))
        z_symbols = _decode(sections[0], _channel_indexes(shape), self._prior, MAX_Z_SYMBOL, "z")
        means, indexes = self._parameters(z_symbols)
        y_symbols = _decode(sections[1], indexes, self._gaussian, MAX_Y_SYMBOL, "y")
        return (y_symbols + means).float()

    def _parameters(self, z_symbols: Tensor) -> tuple[Tensor, Tensor]:
        # Scales may have any sign.
        out = by_tiles(self.synthesis, z_symbols + self._medians, window=WINDOW, up=_UP)
        means, scales = out.chunk(2, dim=1)
        return means, torch.bucketize(scales, self._borders).int()


def scale_table() -> list[float]:
    """The scales that y is coded with: evenly spaced by ratio, rounded to be exact in binary."""
    ratio = (MAX_SCALE / MIN_SCALE) ** (1 / (NUM_SCALES - 1))
    return [round(MIN_SCALE * ratio**i * 2**16) / 2**16 for i in range(NUM_SCALES)]


def share_outside(latents: Latents) -> Tensor:
    """The share of y's symbols that lie outside their tables, (): each costs an escape code."""
    index = torch.bucketize(
        latents.scales.detach().double(), _scale_borders().to(latents.scales.device)
    )
    centers = torch.tensor(_centers(scale_table()), device=latents.scales.device)[index]
    symbols = (latents.y_hat.detach() - latents.means.detach()).round()
    return (symbols.abs() > centers).float().mean()


def _scale_borders() -> Tensor:
    """Between the scales of the table, (NUM_SCALES - 1,): a scale goes to the nearest by ratio."""
    borders = [math.sqrt(a * b) for a, b in pairwise(scale_table())]
    return torch.tensor(borders, dtype=torch.float64)


def _centers(scales: list[float]) -> list[int]:
    """The largest symbol of each scale's table."""
    multiplier = -NormalDist().inv_cdf(TAIL_MASS / 2)
    return [math.ceil(scale * multiplier) for scale in scales]


def _decode(data: bytes, indexes: Tensor, model: Any, limit: int, name: str) -> Tensor:
    symbols = rans_decode(data, indexes, model)
    if symbols.min() < -limit or symbols.max() > limit:
        raise BitstreamError(f"section {name} holds a symbol outside +-{limit}")
    # The range decoder takes any bytes for symbols: only what the encoder writes is accepted.
    if rans_encode(symbols, indexes, model) != data:
        raise BitstreamError(f"section {name} is truncated, corrupted or of another image size")
    return symbols.double()


def _channel_indexes(shape: torch.Size) -> Tensor:
    return torch.arange(shape[1]).reshape(1, -1, 1, 1).expand(shape)
