"""Stable Diffusion 2.1's sizes with random weights, one image through three levels: with `-s`."""

import resource
import time
from itertools import pairwise

import pytest

from diffcodec.diffc import DiffC
from diffcodec.latent.stable_diffusion import blank_stable_diffusion

pytestmark = pytest.mark.slow


def test_three_levels_at_full_size(photo):
    backbone = blank_stable_diffusion("sd21")
    assert sum(p.numel() for p in backbone.unet.parameters()) == pytest.approx(866e6, rel=0.01)
    # Three levels of one chunk of 17 bits each, after the header and the error of the first.
    codec = DiffC(backbone, 8 * 18 / 512**2, decoder="mean", decode_precision="bf16").eval()
    codec.fingerprint()
    seconds = [time.perf_counter()]
    (stream,) = codec.compress(photo)
    seconds.append(time.perf_counter())
    x_hat = codec.decompress([stream])
    seconds.append(time.perf_counter())
    levels = codec._read(codec.unpack([stream])[0].sections[0], 512, 512).levels
    encode, decode = (after - before for before, after in pairwise(seconds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(stream)} bytes, {len(levels)} levels: {encode:.1f} s to encode, {decode:.1f} s to "
        f"decode in bf16, {peak:.1f} GiB at most"
    )
    assert len(levels) == 3
    assert x_hat.shape == photo.shape
