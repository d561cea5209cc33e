"""What the shipped prior must do, on photographs that it has not seen."""

import pytest
import torch
from skimage import data

from diffcodec.codec import to_uint8
from diffcodec.metrics.networks.st_lpips import ShiftTolerantLpips
from diffcodec.metrics.psnr import psnr
from diffcodec.sdedit import SDEdit
from experiments.build import build_codec
from experiments.cli import compose_config

SIZE = 192


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    """Three photographs (1, 3, 192, 192) in [0, 1]."""
    crops = (data.astronaut()[:SIZE, 140 : 140 + SIZE], data.coffee()[120 : 120 + SIZE, 200:392])
    crops += (data.chelsea()[40 : 40 + SIZE, 120 : 120 + SIZE],)
    return [torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 255 for crop in crops]


def build(*overrides: str) -> SDEdit:
    codec = build_codec(compose_config(["codec=sdedit", *overrides])).eval()
    assert isinstance(codec, SDEdit)
    return codec


@pytest.mark.parametrize(("network", "least"), [("denoiser", 4.0), ("consistency", 1.5)])
def test_it_takes_noise_away(photos, network, least):
    prior = build("codec/base=jpeg").prior
    denoiser = getattr(prior, network)()
    for sigma in (0.1, 0.3):
        for i, photo in enumerate(photos):
            x = 2 * photo - 1
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
            noisy = x + sigma * noise
            with torch.no_grad():
                x0 = denoiser(noisy, torch.tensor(sigma))
            gain = 10 * torch.log10((noisy - x).square().mean() / (x0 - x).square().mean())
            assert gain > least, (sigma, i)


@pytest.mark.parametrize("preset", ["fast", "medium"])
def test_auto_costs_about_3_db(photos, preset):
    codec = build(f"codec/preset={preset}", "codec.base.level=[1]")
    lost = []
    for x in photos:
        streams = codec.compress(x)
        base = psnr(to_uint8(x)[0], to_uint8(codec.decompress(streams, "base,level=1"))[0])
        lost.append(
            base - psnr(to_uint8(x)[0], to_uint8(codec.decompress(streams, f"{preset},level=1"))[0])
        )
    assert 2 < sum(lost) / len(lost) < 4.5, lost


@pytest.mark.parametrize("level", [0, 2])
def test_the_perceptual_strengths_lower_the_distance(photos, level):
    codec = build("codec/preset=fast", "codec.strength=perceptual", f"codec.base.level=[{level}]")
    distance = ShiftTolerantLpips("alex").distance
    before, after = [], []
    for x in photos:
        streams = codec.compress(x)
        base, fast = (codec.decompress(streams, f"{p},level={level}") for p in ("base", "fast"))
        before.append(float(distance(base * 2 - 1, x * 2 - 1)))
        after.append(float(distance(fast * 2 - 1, x * 2 - 1)))
        assert (
            psnr(to_uint8(x)[0], to_uint8(base)[0]) - psnr(to_uint8(x)[0], to_uint8(fast)[0]) < 1.5
        )
    assert sum(after) < sum(before)


@pytest.mark.slow
def test_the_constraint_of_slow_brings_the_base_back_to_its_own_picture(photos):
    distances = {}
    for zeta in (0.0, 0.6):
        codec = build("codec/preset=slow", "codec.base.level=[1]", f"codec.preset.slow.zeta={zeta}")
        for i, x in enumerate(photos):
            x_hat = codec.decompress(codec.compress(x, "base,level=1"), "base,level=1")
            x_tilde = codec.enhance(x_hat, 0.2, i, codec._presets["slow"])
            with torch.no_grad():
                distance = codec._distance(x_hat)(2 * x_tilde - 1)
            distances[zeta, i] = float(distance)
    for i in range(len(photos)):
        free, held = distances[0.0, i], distances[0.6, i]
        print(f"\nphoto {i}: ||C(x_hat) - C(x_tilde)|| {free:.2f} without, {held:.2f} with")
        assert held < free
