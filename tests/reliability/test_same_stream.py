"""A stream decodes to the same picture however it is computed, or is refused.

Streams are made and read with 1 and 2 threads, alone and in batches, in both memory formats, eager
and under autocast. Where an entropy decoder loses its place, all that follows is another picture.
"""

import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diffcodec.bitstream import BitstreamError
from diffcodec.codec import Codec
from tests.test_contract import build_lively

# Of the entropy models: scale hyperprior, means, a context model, one of channels and of a
# checkerboard, one of each rate, CDC's integers, and DiffC's numbers of draws.
NAMES = [
    *("bmshj2018_hyperprior", "mbt2018_mean", "mbt2018", "elic", "mbt2018_mean_vbr"),
    *("cdc", "residual_cdc", "diffc"),
]
SIDE = 48
MEAN_CLOSE = 1 / 255  # rounding in networks; another latent changes pictures tenfold
COUNTS = {"mbt2018": 150, "elic": 150, "diffc": 150, "residual_cdc": 300}


@dataclass(frozen=True)
class Way:
    """How a stream is made or read."""

    threads: int
    batch: int
    channels_last: bool
    autocast: bool


WAYS = [
    Way(threads, batch, channels_last, autocast)
    for threads in (1, 2)
    for batch in (1, 3)
    for channels_last in (False, True)
    for autocast in (False, True)
]


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def prepare(codec: Codec, way: Way) -> None:
    torch.set_num_threads(way.threads)
    form = torch.channels_last if way.channels_last else torch.contiguous_format
    codec.to(memory_format=form)


def make(codec: Codec, x: Tensor, way: Way) -> list[bytes]:
    prepare(codec, way)
    with torch.autocast("cpu", torch.bfloat16, enabled=way.autocast):
        return [stream for part in x.split(way.batch) for stream in codec.compress(part)]


def read(codec: Codec, streams: list[bytes], way: Way) -> Tensor:
    prepare(codec, way)
    parts = [streams[i : i + way.batch] for i in range(0, len(streams), way.batch)]
    with torch.autocast("cpu", torch.bfloat16, enabled=way.autocast):
        return torch.cat([codec.decompress(part) for part in parts])


def compare(codec: Codec, photo: Tensor, count: int, seed: int) -> int:
    """Make and read streams in random ways; returns how many were refused."""
    rng = random.Random(seed)
    refused = 0
    for _ in range(-(-count // 3)):
        codec.select(rng.choice(codec.points))
        x = torch.cat([crop(photo, rng) for _ in range(3)])
        made, one, other = rng.choice(WAYS), *rng.sample(WAYS, 2)
        streams = make(codec, x, made)
        try:
            pictures = [read(codec, streams, way) for way in (one, other)]
        except BitstreamError:
            refused += 3
            continue
        difference = (pictures[0] - pictures[1]).abs().mean((1, 2, 3))
        assert difference.max() < MEAN_CLOSE, (made, one, other, difference)
    return refused


def crop(photo: Tensor, rng: random.Random) -> Tensor:
    top, left = (rng.randrange(photo.shape[-1] - SIDE) for _ in range(2))
    return photo[..., top : top + SIDE, left : left + SIDE]


def test_a_few_streams(photo):
    assert compare(build_lively("mbt2018_mean_vbr").codec, photo, 12, seed=0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_streams(name, photo, record_property):
    count = COUNTS.get(name, 2000)
    refused = compare(build_lively(name).codec, photo, count, seed=1)
    print(f"{name}: {count} streams, {refused} refused")
    record_property("refused", refused)
