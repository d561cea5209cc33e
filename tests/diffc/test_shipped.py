"""What the default loses against ideal code lengths, and what a chunk takes: see with `-s`."""

import math
import time

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from diffcodec.diffc import DiffC
from diffcodec.diffc.channel import Channel, Nearest
from diffcodec.zero_shot.ladder import FIRST_BITS, STEP_BITS, first_index
from experiments.cli import compose_config

pytestmark = pytest.mark.slow

RATES = (0.0035, 0.0105, 0.02, 0.032, 0.06)  # bits per pixel


class Exact(Nearest):
    """Samples of N(mu, I) at the KL divergence that they would cost at best."""

    def __init__(self, log2_candidates: int) -> None:
        super().__init__(log2_candidates)
        self.bits = 0.0

    def encode(self, mu, key):
        self.bits += float(mu.double().square().sum()) / (2 * math.log(2))
        generator = torch.Generator().manual_seed(key)
        return torch.zeros(len(mu)), mu + torch.randn(mu.shape, generator=generator)


def curve(codec: DiffC, x: torch.Tensor, channel: Channel) -> tuple[list[float], list[float]]:
    """Bits per pixel without the container's, and PSNR of the denoiser's estimate, by level."""
    height, width = x.shape[-2:]
    x0 = codec.backbone.latents.encode(x)
    estimate = codec._estimate(None, (height, width))
    shared = codec._refinement(height, width, estimate, channel)
    first = first_index(shared.error(x0))
    ladder = codec._ladder(height, width, first)
    bits, rates, qualities = 1.0 + FIRST_BITS, [], []
    while bits < 1.05 * RATES[-1] * height * width:
        level = ladder.open(index := ladder.index_of(shared.error(x0)))
        assert index < 1 << STEP_BITS
        before = getattr(channel, "bits", None)
        shared.send(x0, level)
        cost = 17.0 * level.count if before is None else channel.bits - before
        bits += STEP_BITS + cost
        x_hat = codec.backbone.latents.decode(shared.x0).clamp(0, 1)
        rates.append(bits / (height * width))
        qualities.append(float(-10 * (x - x_hat).square().mean().log10()))
    return rates, qualities


@torch.no_grad()
def test_what_is_lost_against_ideal_code_lengths(shared):
    codec = instantiate(compose_config(["codec=diffc"]).codec).eval()
    assert codec.channel.log2_candidates == 16
    found = []
    for path in sorted((shared / "data" / "kodak").glob("*.png"))[::4]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
        real = curve(codec, x, codec.channel)
        ideal = curve(codec, x, Exact(16))
        rows = []
        for rate in RATES:
            quality = np.interp(math.log(rate), np.log(real[0]), real[1])
            needed = math.exp(np.interp(quality, ideal[1], np.log(ideal[0])))
            best = np.interp(math.log(rate), np.log(ideal[0]), ideal[1])
            rows.append((quality, best, rate / needed - 1))
        found.append(rows)
    means = np.mean(found, 0)
    for rate, (quality, best, loss) in zip(RATES, means, strict=True):
        print(f"{rate} bpp: {quality:.2f} dB, ideally {best:.2f} dB; {100 * loss:.0f}% more bits")
    assert (means[:, 2] < 0.3).all()


@torch.no_grad()
@pytest.mark.timeout(3600)
def test_no_level_makes_pictures_worse(shared):
    """The median over the images of Kodak of what a level adds to the PSNR of the mean."""
    codec = instantiate(compose_config(["codec=diffc"]).codec).eval()
    steps = []
    for path in sorted((shared / "data" / "kodak").glob("*.png")):
        x = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy())
        steps.append(np.diff(curve(codec, x.permute(2, 0, 1)[None] / 255, codec.channel)[1]))
    added = np.median([step[: min(map(len, steps))] for step in steps], 0)
    print("dB a level:", " ".join(f"{step:.3f}" for step in added))
    assert (added > 0).all()


@torch.no_grad()
def test_what_a_chunk_takes():
    length, count = 2000, 64
    mu = torch.randn(count, length, generator=torch.Generator().manual_seed(0))
    mu *= 4.4 / mu.norm(dim=1, keepdim=True)
    for log2_candidates in (14, 15, 16, 17):
        channel = Nearest(log2_candidates)
        channel.encode(mu[:2], 0)
        seconds = [time.perf_counter()]
        indices, _ = channel.encode(mu, 0)
        seconds.append(time.perf_counter())
        channel.decode(indices, length, 0)
        seconds.append(time.perf_counter())
        candidates = torch.randn(1 << log2_candidates, length)
        (candidates @ mu[0]).argmax()
        seconds.append(time.perf_counter())
        encode, decode, gaussian = np.diff(seconds) * 1e3
        print(
            f"2^{log2_candidates}: {encode / count:.2f} ms to encode a chunk, "
            f"{decode / count:.2f} to decode; Gaussian candidates {gaussian:.0f} each way"
        )
