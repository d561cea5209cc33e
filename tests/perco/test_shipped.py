"""What the shipped weights must do, on photographs that they have not seen."""

import numpy as np
import pytest
import torch
from skimage import data
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.files import read_rgb
from diffcodec.codec import to_uint8
from diffcodec.metrics.ms_ssim import ms_ssim
from diffcodec.metrics.psnr import psnr
from diffcodec.perco import PerCo
from experiments.build import build_codec, is_untrained
from experiments.cli import compose_config


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    """Three photographs (1, 3, 256, 256) in [0, 1]."""
    pictures = (data.astronaut()[:256, 128:384], data.coffee()[100:356, 200:456])
    pictures += (data.rocket()[100:356, 200:456],)
    return [torch.from_numpy(p.copy()).permute(2, 0, 1)[None] / 255 for p in pictures]


def build(*overrides: str) -> PerCo:
    cfg = compose_config(["codec=perco", "codec.noise_seed=0", *overrides])
    codec = build_codec(cfg).eval()
    assert isinstance(codec, PerCo)
    assert not is_untrained(codec, cfg)
    return codec


def decode(codec: PerCo, point: str, x: torch.Tensor, **options) -> torch.Tensor:
    return codec.decompress(codec.compress(x, point, **options), point)


def test_more_bits_give_a_truer_picture(photos):
    codec = build()
    scores = []
    for point in codec.points:
        pairs = [(to_uint8(x)[0], to_uint8(decode(codec, point, x))[0]) for x in photos]
        scores.append((np.mean([psnr(*p) for p in pairs]), np.mean([ms_ssim(*p) for p in pairs])))
    assert scores == sorted(scores)
    assert [s for _, s in scores] == sorted(s for _, s in scores)
    # A picture's mean colour gives about 13 dB.
    assert scores[0][0] > 14
    assert scores[-1][0] > 18


def test_samples_of_one_stream_differ_less_as_the_rate_grows(photos):
    codec = build("codec.num_samples=2", "codec.steps=5")
    spread = {}
    for rate in codec.rates:
        a, b = (
            torch.cat([decode(codec, f"rate={rate.name},sample={i}", x) for x in photos[:2]])
            for i in range(2)
        )
        spread[rate.name] = float((a - b).square().mean())
    assert list(spread.values()) == sorted(spread.values(), reverse=True), spread


def test_another_caption_changes_the_picture_less_as_the_rate_grows(photos):
    codec = build("codec.steps=5")
    change = []
    for point in (codec.points[0], codec.points[-1]):
        own = torch.cat([decode(codec, point, x) for x in photos[:2]])
        swapped = [decode(codec, point, x, captions=["a bright red wall"]) for x in photos[:2]]
        change.append(float((torch.cat(swapped) - own).square().mean()))
    assert change[0] > 2 * change[1]


def test_codes_say_more_than_a_caption(photos):
    codec = build("codec.condition=[both,text,local]", "codec.rate=[32x32/256]", "codec.steps=5")
    score = {}
    for condition in ("both", "text", "local"):
        point = f"rate=32x32/256,condition={condition}"
        score[condition] = np.mean(
            [psnr(to_uint8(x), to_uint8(decode(codec, point, x))) for x in photos]
        )
    assert min(score["both"], score["local"]) > score["text"] + 2, score


@pytest.mark.slow
def test_the_autoencoder_reaches_26_db_on_kodak(shared):
    codec = build()
    scores = []
    for path in sorted((shared / "data" / "kodak").glob("*.png")):
        x = pil_to_tensor(read_rgb(path))[None] / 255
        with torch.no_grad():
            scores.append(psnr(to_uint8(x), to_uint8(codec.ceiling(x))))
    assert np.mean(scores) >= 26
