"""Entropy coding of grids of codes: uniform, by their frequencies, or by a network.

`uniform` is the paper's coder, with log2 V bits per code. `table` uses the counts and `model` the
network of a trained `diffcodec.perco.index_model`; both use CompressAI's range coder. The network
and the frequencies are computed in integer arithmetic, so encoder and decoder agree on every
machine. Each code is coded in two halves: the upper half of its bits, then the lower half given the
upper one. The range coder copies whole tables, and two tables of 16 entries are smaller than one of
256.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.entropy import (
    MAX_FREQUENCIES,
    FrequencyDecoder,
    FrequencyEncoder,
    decode_indices,
    encode_indices,
)
from diffcodec.coding.integer_convolutions import ExactConvolutions
from diffcodec.perco.index_model import NUM_GROUPS, REACH, IndexModel, groups

INDEX_CODERS = ("uniform", "table", "model")
_VALUES_PER_STRIP = 1 << 21  # number of logits, which bounds memory
_LOGIT_STEP = 32  # steps per nat
_WEIGHT_BITS = 30
# exp(-k / 32) in units of 2^-30, until it rounds to zero. `decimal` rounds correctly everywhere.
_WEIGHTS = torch.tensor(
    [
        int((Decimal(-k) / _LOGIT_STEP).exp() * (1 << _WEIGHT_BITS) + Decimal("0.5"))
        for k in range(_LOGIT_STEP * 22)
    ]
)


class CodeCoder(ABC):
    """Entropy coder for the grids of one rate."""

    @abstractmethod
    def encode(self, codes: Tensor) -> bytes:
        """Indices (h, w) in [0, V), on any device -> bytes."""

    @abstractmethod
    def decode(self, data: bytes, height: int, width: int) -> Tensor:
        """Inverse of `encode`; returns (height, width) int64 on the CPU.

        Raises:
            BitstreamError: the bytes are not what `encode` writes for a grid of that size.
        """


class SinglePrecision(CodeCoder):
    """Coder for vectors (M, h, w) without quantization, four bytes per value (Table 1).

    Args:
        channels: number of channels M.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def encode(self, codes: Tensor) -> bytes:
        return codes.detach().cpu().float().numpy().astype("<f4").tobytes()

    def decode(self, data: bytes, height: int, width: int) -> Tensor:
        shape = (self._channels, height, width)
        if len(data) != 4 * math.prod(shape):
            raise BitstreamError(f"vectors take {4 * math.prod(shape)} bytes, got {len(data)}")
        vectors = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32)).reshape(shape)
        if not vectors.isfinite().all():
            raise BitstreamError("a vector has NaN or Inf")
        return vectors


class UniformCoder(CodeCoder):
    """Coder with log2 V bits per code.

    Args:
        num_codes: size V of the codebook.
    """

    def __init__(self, num_codes: int) -> None:
        self._num_codes = num_codes

    def encode(self, codes: Tensor) -> bytes:
        return encode_indices(codes.flatten().tolist(), self._num_codes)

    def decode(self, data: bytes, height: int, width: int) -> Tensor:
        found = decode_indices(data, height * width, self._num_codes)
        return torch.tensor(found, dtype=torch.int64).reshape(height, width)


class AdaptiveCoder(CodeCoder):
    """Coder whose frequencies for a group of codes may depend on all previous groups.

    Args:
        num_codes: size V of the codebook.
    """

    def __init__(self, num_codes: int) -> None:
        self._num_codes = num_codes

    @abstractmethod
    def _predict(self, indices: Tensor, known: Tensor, rows: slice, where: Tensor) -> Tensor:
        """Predict weights (n, V) of the codes at n positions, integers of 30 bits.

        Args:
            indices: codes, (h, w).
            known: mask of the codes that may be used, (h, w) bool.
            rows: rows of the grid that contain the positions.
            where: mask of the positions, (h, w) bool with n true values.
        """

    def weights(self, indices: Tensor, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Predict the weights of the codes of a group, in strips of the grid.

        Args:
            indices: codes, (h, w); only the previous groups need to be known.
            number: index of the group.

        Yields:
            Mask of the positions, (h, w) bool, and their weights (n, V) in raster order: integers
            proportional to the probabilities.
        """
        height, width = indices.shape
        group = groups(height, width)
        for rows in _strips(height, width, self._num_codes):
            where = torch.zeros_like(group, dtype=torch.bool)
            where[rows] = group[rows] == number
            if where.any():
                yield where, self._predict(indices, group < number, rows, where)

    def encode(self, codes: Tensor) -> bytes:
        indices = codes.cpu()
        encoder = FrequencyEncoder()
        for number in range(NUM_GROUPS):
            for where, weights in self.weights(indices, number):
                halves, found = _Halves(weights), indices[where]
                upper = found // halves.size
                encoder.write(upper, halves.of_upper)
                encoder.write(found % halves.size, halves.of_lower(upper))
        return encoder.to_bytes()

    def decode(self, data: bytes, height: int, width: int) -> Tensor:
        indices = torch.zeros(height, width, dtype=torch.int64)
        decoder, encoder = FrequencyDecoder(data, 2 * height * width), FrequencyEncoder()
        for number in range(NUM_GROUPS):
            for where, weights in self.weights(indices, number):
                halves = _Halves(weights)
                upper = decoder.read(halves.of_upper)
                of_lower = halves.of_lower(upper)
                lower = decoder.read(of_lower)
                found = halves.size * upper + lower
                if (found >= self._num_codes).any():
                    raise BitstreamError(f"a code is not in [0, {self._num_codes})")
                indices[where] = found
                encoder.write(upper, halves.of_upper)
                encoder.write(lower, of_lower)
        # The range decoder decodes any bytes; accept only those that the encoder writes.
        if encoder.to_bytes() != data:
            raise BitstreamError("the codes are truncated, corrupted or of another image size")
        return indices


class _Halves:
    """Frequencies of the upper and lower halves of codes.

    Args:
        weights: weights (n, V) from `AdaptiveCoder.weights`.

    Attributes:
        size: number of lower halves for each upper half.
        of_upper: frequencies of the upper halves, (n, U), for `FrequencyEncoder`.
    """

    def __init__(self, weights: Tensor) -> None:
        num_codes = weights.shape[1]
        self.size = 1 << ((num_codes - 1).bit_length() + 1) // 2
        # If V is not a multiple of `size`, some lower halves of the last upper half are unused.
        padded = F.pad(weights.clamp(min=1), (0, -num_codes % self.size), value=1)
        self._weights = padded.unflatten(1, (-1, self.size))
        self.of_upper = to_frequencies(self._weights.sum(2))

    def of_lower(self, upper: Tensor) -> Tensor:
        """Frequencies (n, size) of the lower halves, given the upper halves (n,)."""
        return to_frequencies(self._weights[torch.arange(len(upper)), upper])


class TableCoder(AdaptiveCoder):
    """Coder with fixed frequencies.

    Args:
        counts: number of occurrences of each code, (V,) int64, at least 1.
    """

    def __init__(self, counts: Tensor) -> None:
        # At most 2^30, so that products with frequencies are exact.
        self._weights = counts.cpu() * (1 << _WEIGHT_BITS) // int(counts.max())
        super().__init__(len(counts))

    def _predict(self, indices: Tensor, known: Tensor, rows: slice, where: Tensor) -> Tensor:
        return self._weights.expand(int(where.sum()), -1)


class ModelCoder(AdaptiveCoder):
    """Coder with frequencies predicted from neighbouring codes by the network.

    Args:
        model: trained model; its weights are copied.

    Raises:
        ValueError: the weights do not allow exact integer arithmetic.
    """

    def __init__(self, model: IndexModel) -> None:
        super().__init__(model.num_codes)
        self._embedding = model.embedding.weight.detach().cpu().double()
        *body, last, activation = model.body
        assert isinstance(last, nn.Conv2d)
        self._body = ExactConvolutions(nn.Sequential(*body), name="model of the codes")
        head = nn.Sequential(_of_patches(last), activation, *model.head)
        self._head = ExactConvolutions(head, name="model of the codes")

    def _predict(self, indices: Tensor, known: Tensor, rows: slice, where: Tensor) -> Tensor:
        if not known.any():
            return self._predict_first(where)
        # Extended by the receptive field, a strip gives the same result as the whole grid.
        seen = slice(max(0, rows.start - REACH), rows.stop + REACH)
        visible = torch.where(known[seen], indices[seen], self._num_codes)
        return self._weigh(visible, where[seen])

    def _predict_first(self, where: Tensor) -> Tensor:
        """Weights for the first group: with no known code, only the borders matter."""
        rows, columns = (_nearness(side) for side in where.shape)
        unknown = torch.full((int(rows[-1]) + 1, int(columns[-1]) + 1), self._num_codes)
        found = self._weigh(unknown, torch.ones_like(unknown, dtype=torch.bool))
        i, j = where.nonzero(as_tuple=True)
        return found[rows[i] * unknown.shape[1] + columns[j]]

    def _weigh(self, visible: Tensor, where: Tensor) -> Tensor:
        """Weights (n, V) at n positions of a grid (h, w), in which V marks unknown codes."""
        embedded = self._embedding[visible].permute(2, 0, 1)
        features = F.pad(self._body(embedded[None])[0], (1, 1, 1, 1)).permute(1, 2, 0)
        height, width = where.shape
        # Evaluate the last layers only at the requested positions, at most half of the grid.
        corners = itertools.product(range(3), repeat=2)
        patches = [features[i : i + height, j : j + width][where] for i, j in corners]
        logits = self._head(torch.cat(patches, dim=1).T[None, :, :, None])[0, :, :, 0].T
        return _exponentials(logits)


def _of_patches(conv: nn.Conv2d) -> nn.Conv2d:
    """Convert a 3x3 convolution to a 1x1 convolution over 3x3 patches in raster order."""
    flat = nn.Conv2d(9 * conv.in_channels, conv.out_channels, 1)
    weight = conv.weight.permute(0, 2, 3, 1).reshape(flat.weight.shape)
    flat.weight, flat.bias = nn.Parameter(weight.detach()), conv.bias
    return flat


def _nearness(side: int) -> Tensor:
    """Index of each position along a side; all positions that see no border share one."""
    places = torch.arange(side)
    return places.clamp(max=REACH) + (places - max(REACH, side - 1 - REACH)).clamp(min=0)


def index_coder(name: str, model: IndexModel | None, num_codes: int) -> CodeCoder:
    """Build the coder of a given name for the codes of one rate.

    Args:
        name: one of `INDEX_CODERS`.
        model: trained entropy model; not needed for `uniform`.
        num_codes: size V of the codebook.

    Raises:
        ValueError: the model has not been trained, or does not allow exact integer arithmetic.
    """
    if name == "uniform":
        return UniformCoder(num_codes)
    assert model is not None
    if not model.trained:
        raise ValueError(
            f"index_coder={name} needs an entropy model, which these weights do not have: "
            "train it with experiment=perco/index_model, or pass index_coder=uniform"
        )
    return TableCoder(model.counts) if name == "table" else ModelCoder(model)


def to_frequencies(weights: Tensor) -> Tensor:
    """Convert weights (n, V) up to 2^47 to approximately proportional frequencies.

    The computation is in integers. The largest frequency takes the remainder of the rounding.
    """
    num_codes = weights.shape[1]
    frequencies = 1 + weights * (MAX_FREQUENCIES - num_codes) // weights.sum(1, keepdim=True)
    left = MAX_FREQUENCIES - frequencies.sum(1, keepdim=True)
    return frequencies.scatter_add(1, weights.argmax(1, keepdim=True), left)


def _exponentials(logits: Tensor) -> Tensor:
    """exp(logit - maximum), (n, V), as integers of 30 bits."""
    steps = (logits * _LOGIT_STEP).round_()
    below = steps.amax(1, keepdim=True).sub(steps).clamp_(max=len(_WEIGHTS) - 1)
    return _WEIGHTS[below.long()]


def _strips(height: int, width: int, num_codes: int) -> Iterator[slice]:
    """Split the rows of a grid into strips of bounded memory."""
    rows = max(1, _VALUES_PER_STRIP // (width * num_codes))
    for first in range(0, height, rows):
        yield slice(first, min(first + rows, height))
