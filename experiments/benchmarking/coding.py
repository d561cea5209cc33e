"""Times a codec on images of one size."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffcodec.codec import Codec
from diffcodec.points import Point
from experiments.benchmarking.machine import clock_of, peak_memory
from experiments.benchmarking.stopwatch import ENTROPY, NETWORK, Instruments, Stopwatch


@dataclass(frozen=True)
class Times:
    """Seconds per image: median over the repetitions, and quartiles."""

    median: float
    low: float
    high: float


def photograph(height: int, width: int) -> Tensor:
    """A photograph (1, 3, height, width) in [0, 1], padded by reflection."""
    from skimage import data

    image = np.asarray(data.astronaut())
    pad = [
        (0, max(0, side - have)) for side, have in zip((height, width), image.shape, strict=False)
    ]
    image = np.pad(image, [*pad, (0, 0)], mode="symmetric")[:height, :width]
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def measure_coding(
    codec: Codec,
    x: Tensor,
    point: Point,
    instruments: Instruments,
    *,
    repetitions: int,
    warmup: int,
) -> dict[str, Any]:
    """Times, throughput, parts and peak memory of coding a batch.

    Args:
        codec: in evaluation mode.
        x: images (B, 3, H, W) in [0, 1].
        point: the operating point.
        instruments: that see the parts.
        repetitions: number of timed runs, for medians and quartiles.
        warmup: number of runs before.

    Returns:
        `encode` and `decode`, each with `seconds` per image (median, low, high),
        `images_per_second` and `parts` (seconds per image in networks, entropy coding and the
        rest); `bpp`; `peak_mib`.
    """
    clock = clock_of(codec.device)
    x = x.to(codec.device)
    streams = codec.compress(x, point)
    for _ in range(warmup):
        codec.compress(x, point)
        codec.decompress(streams, point)
    stages: dict[str, Callable[[], object]] = {
        "encode": lambda: codec.compress(x, point),
        "decode": lambda: codec.decompress(streams, point),
    }
    out: dict[str, Any] = {
        "bpp": 8 * sum(map(len, streams)) / (x.shape[0] * x.shape[2] * x.shape[3])
    }
    with peak_memory(codec.device) as memory:
        for name, stage in stages.items():
            seconds = [_seconds(stage, clock) / len(x) for _ in range(repetitions)]
            out[name] = {
                "seconds": asdict(spread(seconds)),
                "images_per_second": 1 / median(seconds),
                "parts": _parts(stage, clock, instruments, len(x)),
            }
    out["peak_mib"] = memory.mib
    return out


@torch.no_grad()
def count_flops(codec: Codec, x: Tensor, point: Point) -> dict[str, int]:
    """Floating-point operations of encoding and of decoding one image (1, 3, H, W)."""
    x = x.to(codec.device)
    with FlopCounterMode(display=False) as encoding:
        streams = codec.compress(x, point)
    with FlopCounterMode(display=False) as decoding:
        codec.decompress(streams, point)
    return {"encode": encoding.get_total_flops(), "decode": decoding.get_total_flops()}


def spread(seconds: Sequence[float]) -> Times:
    """Median and quartiles; a single value is all three."""
    if len(seconds) < 2:
        return Times(seconds[0], seconds[0], seconds[0])
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return Times(middle, low, high)


def _seconds(stage: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    stage()
    return clock() - start


def _parts(
    stage: Callable[[], object],
    clock: Callable[[], float],
    instruments: Instruments,
    batch: int,
) -> dict[str, float]:
    """One more run, instrumented; its times include a small overhead."""
    watch = Stopwatch(clock)
    with instruments.watching(watch):
        total = _seconds(stage, clock)
    network, entropy = (watch.seconds.get(part, 0.0) for part in (NETWORK, ENTROPY))
    rest = max(0.0, total - network - entropy)
    return {NETWORK: network / batch, ENTROPY: entropy / batch, "rest": rest / batch}
