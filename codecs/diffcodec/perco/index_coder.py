"""Grids of codes <-> bytes: uniformly, by how often codes occur, or by what their neighbours say.

`uniform` is the paper's: log2 V bits for each code. The other two need what training has counted
(`table`) or learned (`model`), see `diffcodec.perco.index_model`, and are coded with CompressAI's
range coder. What the network predicts is computed in integers, as are the frequencies made of it,
so that encoder and decoder agree on every machine. A code is coded in halves: the upper half of its
binary digits, then the lower half given those, because the coder copies whole tables, and two of 16
entries are less than one of 256.
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
_VALUES_PER_STRIP = 1 << 21  # of logits, which bounds memory
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
    """Codes the grids of one rate."""

    @abstractmethod
    def encode(self, codes: Tensor) -> bytes:
        """Indices (h, w) in [0, V), on any device -> bytes."""

    @abstractmethod
    def decode(self, data: bytes, height: int, width: int) -> Tensor:
        """Inverse of `encode`, (height, width) int64 on the CPU.

        Raises:
            BitstreamError: the bytes are not what `encode` writes for a grid of that size.
        """


class SinglePrecision(CodeCoder):
    """Vectors (M, h, w) that were not quantised, each number in four bytes (Table 1).

    Args:
        channels: M.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def encode(self, codes: Tensor) -> bytes:
        return codes.detach().cpu().float().numpy().astype("<f4").tobytes()

    def decode(self, data: bytes, height: int, width: int) -> Tensor:
        shape = (self._channels, height, width)
        if len(data) != 4 * math.prod(shape):
            raise BitstreamError(f"{len(data)} bytes of vectors, not {4 * math.prod(shape)}")
        vectors = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32)).reshape(shape)
        if not vectors.isfinite().all():
            raise BitstreamError("vectors that are not finite")
        return vectors


class UniformCoder(CodeCoder):
    """log2 V bits for each code.

    Args:
        num_codes: V.
    """

    def __init__(self, num_codes: int) -> None:
        self._num_codes = num_codes

    def encode(self, codes: Tensor) -> bytes:
        return encode_indices(codes.flatten().tolist(), self._num_codes)

    def decode(self, data: bytes, height: int, width: int) -> Tensor:
        found = decode_indices(data, height * width, self._num_codes)
        return torch.tensor(found, dtype=torch.int64).reshape(height, width)


class AdaptiveCoder(CodeCoder):
    """Codes each group of codes with frequencies that may depend on all groups before it.

    Args:
        num_codes: V.
    """

    def __init__(self, num_codes: int) -> None:
        self._num_codes = num_codes

    @abstractmethod
    def _predict(self, indices: Tensor, known: Tensor, rows: slice, where: Tensor) -> Tensor:
        """How likely each code is in some places: weights (n, V), integers of 30 bits.

        Args:
            indices: (h, w).
            known: which of them may be looked at, (h, w) of bool.
            rows: of the grid, in which the places are.
            where: they are, (h, w) of bool, with n true.
        """

    def weights(self, indices: Tensor, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """How likely each code is in the places of a group, in strips of the grid.

        Args:
            indices: (h, w), of which the groups before that one are known.
            number: of the group.

        Yields:
            Where the places are, (h, w) of bool, and weights (n, V) for them, row by row of the
            grid: integers in proportion to the probabilities.
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
        # The range decoder takes any bytes for symbols: only what the encoder writes is accepted.
        if encoder.to_bytes() != data:
            raise BitstreamError("the codes are truncated, corrupted or of another image size")
        return indices


class _Halves:
    """The distributions of both halves of some codes.

    Args:
        weights: (n, V), as of `AdaptiveCoder.weights`.

    Attributes:
        size: the number of lower halves for each upper one.
        of_upper: frequencies (n, U), as `FrequencyEncoder` takes them.
    """

    def __init__(self, weights: Tensor) -> None:
        num_codes = weights.shape[1]
        self.size = 1 << ((num_codes - 1).bit_length() + 1) // 2
        # Where V is no multiple, the last upper half has lower ones that no code has.
        padded = F.pad(weights.clamp(min=1), (0, -num_codes % self.size), value=1)
        self._weights = padded.unflatten(1, (-1, self.size))
        self.of_upper = to_frequencies(self._weights.sum(2))

    def of_lower(self, upper: Tensor) -> Tensor:
        """Frequencies (n, size) for upper halves (n,)."""
        return to_frequencies(self._weights[torch.arange(len(upper)), upper])


class TableCoder(AdaptiveCoder):
    """Each code by how often it occurs.

    Args:
        counts: (V,) int64, at least 1.
    """

    def __init__(self, counts: Tensor) -> None:
        # 2^30 at most, so that products with frequencies are exact.
        self._weights = counts.cpu() * (1 << _WEIGHT_BITS) // int(counts.max())
        super().__init__(len(counts))

    def _predict(self, indices: Tensor, known: Tensor, rows: slice, where: Tensor) -> Tensor:
        return self._weights.expand(int(where.sum()), -1)


class ModelCoder(AdaptiveCoder):
    """Each code by what the network makes of its neighbours.

    Args:
        model: trained; it is copied.

    Raises:
        ValueError: its weights cannot be computed with exactly.
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
        # With all that the network sees of the rest, a strip's result is the whole grid's.
        seen = slice(max(0, rows.start - REACH), rows.stop + REACH)
        visible = torch.where(known[seen], indices[seen], self._num_codes)
        return self._weigh(visible, where[seen])

    def _predict_first(self, where: Tensor) -> Tensor:
        """Features of positions without neighbours: only the distance to the borders counts."""
        rows, columns = (_nearness(side) for side in where.shape)
        unknown = torch.full((int(rows[-1]) + 1, int(columns[-1]) + 1), self._num_codes)
        found = self._weigh(unknown, torch.ones_like(unknown, dtype=torch.bool))
        i, j = where.nonzero(as_tuple=True)
        return found[rows[i] * unknown.shape[1] + columns[j]]

    def _weigh(self, visible: Tensor, where: Tensor) -> Tensor:
        """Weights (n, V) for n places of a grid (h, w), whose unknown codes are V."""
        embedded = self._embedding[visible].permute(2, 0, 1)
        features = F.pad(self._body(embedded[None])[0], (1, 1, 1, 1)).permute(1, 2, 0)
        height, width = where.shape
        # The last layers are computed where they are asked for, which is half of a grid at most.
        corners = itertools.product(range(3), repeat=2)
        patches = [features[i : i + height, j : j + width][where] for i, j in corners]
        logits = self._head(torch.cat(patches, dim=1).T[None, :, :, None])[0, :, :, 0].T
        return _exponentials(logits)


def _of_patches(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution of 3x3 as one of 1x1 over the nine neighbours, line by line, as channels."""
    flat = nn.Conv2d(9 * conv.in_channels, conv.out_channels, 1)
    weight = conv.weight.permute(0, 2, 3, 1).reshape(flat.weight.shape)
    flat.weight, flat.bias = nn.Parameter(weight.detach()), conv.bias
    return flat


def _nearness(side: int) -> Tensor:
    """Numbers for the places along a side: all that see no border have the same."""
    places = torch.arange(side)
    return places.clamp(max=REACH) + (places - max(REACH, side - 1 - REACH)).clamp(min=0)


def index_coder(name: str, model: IndexModel | None, num_codes: int) -> CodeCoder:
    """A coder by its name, for the codes of one rate.

    Args:
        name: one of `INDEX_CODERS`.
        model: with counts for `table`, and trained for `model`.
        num_codes: V.

    Raises:
        ValueError: the model has not been trained, or its weights are no use.
    """
    if name == "uniform":
        return UniformCoder(num_codes)
    assert model is not None
    if not model.trained:
        raise ValueError(
            f"index_coder={name} needs a model of the codes, which these weights do not have: "
            "train it by experiment=perco/index_model, or take index_coder=uniform"
        )
    return TableCoder(model.counts) if name == "table" else ModelCoder(model)


def to_frequencies(weights: Tensor) -> Tensor:
    """Weights (n, V) of at most 2^47 -> what `FrequencyEncoder` takes, about in proportion.

    In integers throughout. What is left over by rounding goes to the largest.
    """
    num_codes = weights.shape[1]
    frequencies = 1 + weights * (MAX_FREQUENCIES - num_codes) // weights.sum(1, keepdim=True)
    left = MAX_FREQUENCIES - frequencies.sum(1, keepdim=True)
    return frequencies.scatter_add(1, weights.argmax(1, keepdim=True), left)


def _exponentials(logits: Tensor) -> Tensor:
    """exp(logit - largest), (n, V), as integers of 30 bits."""
    steps = (logits * _LOGIT_STEP).round_()
    below = steps.amax(1, keepdim=True).sub(steps).clamp_(max=len(_WEIGHTS) - 1)
    return _WEIGHTS[below.long()]


def _strips(height: int, width: int, num_codes: int) -> Iterator[slice]:
    """The rows of a grid, in parts that need a bounded amount of memory."""
    rows = max(1, _VALUES_PER_STRIP // (width * num_codes))
    for first in range(0, height, rows):
        yield slice(first, min(first + rows, height))
