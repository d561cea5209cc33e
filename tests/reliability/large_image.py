"""Code one large picture and print, as JSON, how long it took and how much memory.

    python tests/reliability/large_image.py HEIGHT WIDTH POINT PART [key=value …]

PART is `all`, or `first`: networks compute the first tile of each size, and its result stands for
all others. Memory is then that of all, for a fraction of the time.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate

from diffcodec.diffusion import tiling
from diffcodec.networks import tiles
from experiments.benchmarking.coding import photograph
from experiments.benchmarking.machine import resident_peak
from experiments.cli import compose_config


def compute_first_tiles_alone() -> None:
    """Let all tiles of one size have the result of the first."""
    for module, name in ((tiles, "in_tiles"), (tiling, "blend_tiles")):
        original = getattr(module, name)
        for user in list(sys.modules.values()):
            if getattr(user, name, None) is original:
                setattr(user, name, _with_first(original))


def _with_first(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def call(network: Callable[..., torch.Tensor], *args: Any, **named: Any) -> torch.Tensor:
        known: dict[Any, torch.Tensor] = {}

        def first(*inputs: Any) -> torch.Tensor:
            sizes = tuple(
                value.stop - value.start if isinstance(value, slice) else value.shape
                for value in inputs
            )
            if sizes not in known:
                known[sizes] = network(*inputs)
            return known[sizes]

        return function(first, *args, **named)

    return call


def main(height: int, width: int, point: str, part: str, overrides: list[str]) -> dict[str, Any]:
    """Encode and decode; the original is held while encoding, as a command holds it."""
    torch.set_num_threads(1)
    codec = instantiate(compose_config(overrides).codec).eval()
    small = photograph(64, 64)
    codec.decompress(codec.compress(small, point), point)
    if part == "first":
        compute_first_tiles_alone()
    out = {"before_mib": resident_peak()}
    x = photograph(height, width)
    start = time.perf_counter()
    streams = codec.compress(x, point)
    out |= {"encode_seconds": time.perf_counter() - start, "encode_mib": resident_peak()}
    del x
    start = time.perf_counter()
    x_hat = codec.decompress(streams, point)
    out |= {"decode_seconds": time.perf_counter() - start, "decode_mib": resident_peak()}
    assert x_hat.shape == (1, 3, height, width)
    return out | {"num_bytes": len(streams[0])}


if __name__ == "__main__":
    _, height, width, point, part, *overrides = sys.argv
    print(json.dumps(main(int(height), int(width), point, part, overrides)))
