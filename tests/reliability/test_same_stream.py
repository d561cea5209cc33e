"""A stream holds the same latents however it is computed, or it is refused.

Streams are made and read with 1 and 2 threads, alone and in batches, in both memory formats, eager
and under autocast, with the weights as they are and as a checkpoint of a training in bfloat16 holds
them, and with weights in float64. What the entropy decoders read must be what the encoders wrote,
symbol by symbol: where a decoder loses its place, all that follows is another picture. Every codec
with a learned entropy model is found by its config.
"""

import copy
import os
import random
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from compressai.entropy_models import EntropyModel
from torch import Tensor

from diffcodec.codec import Codec
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.perco.index_model import IndexModel
from diffcodec.zero_shot import ZeroShotCodec
from tests.reliability.symbols import Symbols, watched
from tests.test_contract import NAMES, UNAVAILABLE, build_lively

SIDE = 48
MEAN_CLOSE = 1 / 255  # rounding in networks; another latent changes pictures tenfold
COUNT = 1420
# Decoding of these takes long: symbol after symbol, or a diffusion.
COUNTS = {
    **{"mbt2018": 150, "cheng2020_anchor": 150, "cheng2020_attn": 150, "elic": 150},
    **{
        "diffc": 150,
        "ddcm": 150,
        "stablecodec": 150,
        "perco": 600,
        "cdc_residual": 600,
        "sdedit": 1000,
    },
}
OWN, BF16, FLOAT64 = "own", "bf16", "float64"


@dataclass(frozen=True)
class Way:
    """How a stream is made or read."""

    threads: int = 1
    batch: int = 1
    channels_last: bool = False
    autocast: bool = False
    weights: str = OWN


WAYS = [
    Way(threads, batch, channels_last, autocast, weights)
    for threads in (1, 2)
    for batch in (1, 3)
    for channels_last in (False, True)
    for autocast in (False, True)
    for weights in (OWN, OWN, BF16, FLOAT64)
]


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def symbols():
    with watched() as found:
        yield found


def has_entropy_model(codec: Codec) -> bool:
    # Zero-shot codecs have none, but streams of numbers that depend on what their network computes.
    kinds = EntropyModel | IndexModel
    return isinstance(codec, ZeroShotCodec) or any(
        isinstance(module, kinds) for module in codec.modules()
    )


class Ways:
    """A codec in all its kinds of weights."""

    def __init__(self, codec: Codec) -> None:
        half = copy.deepcopy(codec)
        state = {
            name: tensor.bfloat16() if tensor.is_floating_point() else tensor
            for name, tensor in codec.state_dict().items()
            if name not in codec.derived_state()
        }
        half.load_state_dict(state, strict=False)
        self.codecs = {OWN: codec, BF16: half, FLOAT64: copy.deepcopy(codec).double()}
        for each in self.codecs.values():
            each.fingerprint()

    def prepare(self, way: Way, point: str) -> Codec:
        torch.set_num_threads(way.threads)
        codec = self.codecs[way.weights]
        form = torch.channels_last if way.channels_last else torch.contiguous_format
        codec.to(memory_format=form)
        return codec

    def make(self, x: Tensor, way: Way, point: str) -> list[bytes]:
        codec = self.prepare(way, point)
        with torch.autocast("cpu", torch.bfloat16, enabled=way.autocast):
            return [stream for part in x.split(way.batch) for stream in codec.compress(part)]

    def read(self, streams: list[bytes], way: Way, point: str) -> Tensor:
        codec = self.prepare(way, point)
        parts = [streams[i : i + way.batch] for i in range(0, len(streams), way.batch)]
        with torch.autocast("cpu", torch.bfloat16, enabled=way.autocast):
            return torch.cat([codec.decompress(part) for part in parts])


@dataclass
class Counts:
    """Streams that were made, and how often one was refused.

    Attributes:
        foreign: by a codec with other weights, as it must be.
        own: by one with the same weights, which may be but need not.
    """

    made: int = 0
    foreign: int = 0
    own: int = 0


def compare(name: str, photo: Tensor, symbols: Symbols, count: int, seed: int) -> Counts:
    """Make and read streams in random ways; what is read is what was written."""
    codec = build_lively(name).codec
    if not has_entropy_model(codec):
        pytest.skip("has no learned entropy model")
    ways, rng, counts = Ways(codec), random.Random(seed), Counts()
    while counts.made < count:
        point = rng.choice(codec.points).name
        x = torch.cat([crop(photo, rng) for _ in range(3)])
        made, one, other = rng.choice(WAYS), *rng.sample(WAYS, 2)
        counts.made += 3
        if made.weights == FLOAT64:
            with pytest.raises(ValueError, match=r"got float64: .*float\(\)"):
                ways.make(x, made, point)
            counts.foreign += 3
            continue
        symbols.take()
        streams = ways.make(x, made, point)
        written, _ = symbols.take()
        pictures = []
        for way in (one, other):
            if way.weights != made.weights:
                with pytest.raises(BitstreamError):
                    ways.read(streams, way, point)
                counts.foreign += 3
                continue
            symbols.take()
            try:
                pictures.append(ways.read(streams, way, point))
            except BitstreamError:
                counts.own += 3
                continue
            assert symbols.take()[1] == written, (made, way)
        if len(pictures) == 2:
            difference = (pictures[0] - pictures[1]).abs().mean((1, 2, 3))
            assert difference.max() < MEAN_CLOSE, (made, one, other, difference)
    return counts


def crop(photo: Tensor, rng: random.Random) -> Tensor:
    top, left = (rng.randrange(photo.shape[-1] - SIDE) for _ in range(2))
    return photo[..., top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(
    "name",
    [
        # Half of its ways are in bfloat16, which many processors emulate.
        pytest.param(name, marks=[pytest.mark.slow] if name in ("diffc", "ddcm") else [])
        for name in NAMES
        if name not in UNAVAILABLE
    ],
)
def test_a_few_streams(name, photo, symbols):
    count = 3 if name in COUNTS else 9
    assert compare(name, photo, symbols, count, seed=0).made == count


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNAVAILABLE])
def test_many_streams(name, photo, symbols, record_property):
    counts = compare(name, photo, symbols, COUNTS.get(name, COUNT), seed=1)
    print(f"{name}: {counts}, 0 silently wrong")
    record_property("counts", str(counts))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cdc", "cdc_residual"])
def test_a_compiled_decoder_reads_the_same(name, photo, symbols):
    codec = build_lively(name).codec
    x = torch.cat([photo[..., i : i + SIDE, :SIDE] for i in range(0, 400, 50)])
    streams = codec.compress(x, codec.points[0])
    written, _ = symbols.take()
    eager = codec.decompress(streams, codec.points[0])
    assert symbols.take()[1] == written
    codec.unet.compile()
    compiled = codec.decompress(streams, codec.points[0])
    assert symbols.take()[1] == written
    assert (eager - compiled).abs().mean((1, 2, 3)).max() < MEAN_CLOSE
    assert codec.compress(x, codec.points[0]) == streams


VECTOR_UNITS = """
import diffcodec
print(*(diffcodec.load(name).fingerprint().hex() for name in ("mbt2018_mean_vbr", "cdc_residual")))
"""


@pytest.mark.slow
def test_processors_with_other_vector_units_build_the_same_tables():
    def fingerprints(units: str) -> str:
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": units}
        command = [sys.executable, "-W", "ignore", "-c", VECTOR_UNITS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    assert fingerprints("default") == fingerprints("avx2")


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNAVAILABLE])
def test_the_cpu_and_the_gpu_read_each_other(name, photo, symbols):
    codec = build_lively(name).codec
    if not has_entropy_model(codec):
        pytest.skip("has no learned entropy model")
    others = {"cpu": codec, "cuda": copy.deepcopy(codec).cuda()}
    x = torch.cat([photo[..., i : i + SIDE, :SIDE] for i in range(0, 400, 25)])
    for maker, reader in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")):
        symbols.take()
        for image in x.split(1):
            streams = others[maker].compress(image)
            written, _ = symbols.take()
            try:
                others[reader].decompress(streams)
            except BitstreamError:
                continue
            finally:
                read = symbols.take()[1]
            assert read == written, (maker, reader)
