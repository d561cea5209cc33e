"""Memory does not grow with an image beyond the image, and time grows as its pixels do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate

from diffcodec.codec import to_uint8
from diffcodec.metrics.psnr import psnr
from experiments.cli import compose_config
from tests.seams import seam_ratio

SCRIPT = Path(__file__).with_name("large_image.py")
LIMIT_MIB = 4096
# A point and the overrides of each; few steps, as many as need all the memory of more.
CASES = {
    "mbt2018_mean_vbr": ("level=3", ["codec=mbt2018_mean_vbr"]),
    "cdc_residual": ("level=4,gamma=1", ["codec=cdc_residual", "codec.steps=2"]),
    "cdc": (
        "lmbda=0.01,gamma=0.8",
        ["codec=cdc", "codec.steps=2"],
    ),
    "perco": ("rate=16x16/1024", ["codec=perco", "codec.steps=2"]),
    "sdedit fast": ("fast,level=4", ["codec=sdedit"]),
    "sdedit medium": (
        "medium,level=4",
        # What ships has strengths for its own number of steps.
        ["codec=sdedit", "codec.preset.medium.steps=3", "codec.strength=0.19"],
    ),
}


def measure(side: int, name: str, part: str) -> dict[str, float]:
    """What `large_image.py` prints, in a process of its own."""
    point, overrides = CASES[name]
    command = [sys.executable, str(SCRIPT), str(side), str(side)]
    command += [point, part, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"\n| {name} | {side}x{side} | {found['before_mib'] / 1024:.2f} "
        f"| {found['encode_mib'] / 1024:.2f} | {found['decode_mib'] / 1024:.2f} "
        f"| {found['encode_seconds']:.1f} | {found['decode_seconds']:.1f} |"
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory_is_bounded(name):
    for side in (2048, 4096, 8192):
        assert measure(side, name, "first")["decode_mib"] < LIMIT_MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_time_grows_as_the_pixels_do(name):
    seconds = [measure(side, name, "all") for side in (1536, 3072)]
    for stage in ("encode_seconds", "decode_seconds"):
        assert seconds[1][stage] < 8 * seconds[0][stage]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cdc_residual", "cdc", "perco", "sdedit medium"])
def test_pictures_of_tiles_are_as_good_and_show_no_seams(name, photo):
    point, overrides = CASES[name]
    codec = instantiate(compose_config(overrides).codec).eval()
    streams = codec.compress(photo, point)
    whole = codec.decompress(streams, point)
    owner = {"cdc_residual": codec, "cdc": codec, "perco": getattr(codec, "model", None)}.get(name)
    (owner or codec.prior).window = 256
    tiled = codec.decompress(streams, point)
    quality = [psnr(to_uint8(photo), to_uint8(x_hat)) for x_hat in (whole, tiled)]
    print(f"{name}: PSNR {quality[0]:.2f} dB whole, {quality[1]:.2f} dB in tiles of 256")
    assert quality[1] > quality[0] - 0.3
    if name == "sdedit medium":  # whose tiles are exact
        assert (tiled - whole).abs().max() < 1e-4
    else:
        assert seam_ratio(tiled, whole, 256, 64) < 3
