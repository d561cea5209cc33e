import copy
from dataclasses import replace

import pytest
import torch

from diffcodec.base.classical import PillowCodec
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.strength import level_sigma
from diffcodec.training.perceptual import PerceptualLoss


def mse(a, b) -> float:
    return float((a - b).square().mean())


def test_streams_are_the_base_codecs_and_each_decodes_the_others(make_codec, x):
    codec, base = make_codec(), PillowCodec("JPEG", quality=[10, 60])
    for point in codec.points:
        streams = codec.compress(x, point)
        assert streams == base.compress(x, codec.base_point(point))
        assert codec.num_payload_bytes(streams[0]) == base.num_payload_bytes(streams[0])
    x_hat = base.decompress(streams, codec.base_point(point))
    assert point.series == "base"
    assert torch.equal(codec.decompress(streams, point), x_hat)
    assert not torch.equal(codec.decompress(streams, "fast,quality=60"), x_hat)


@pytest.mark.parametrize("preset", ["fast", "medium"])
def test_strength_zero_is_the_base_picture_bit_for_bit(make_codec, x, preset):
    codec = make_codec(preset, strength=[0.0, 0.1], show_base=False)
    (stream,) = codec.compress(x[:1])
    assert torch.equal(
        codec.decompress([stream], f"{preset},strength=0,quality=10"),
        codec.base.decompress([stream]),
    )
    assert not torch.equal(
        codec.decompress([stream], f"{preset},strength=0.1,quality=10"),
        codec.base.decompress([stream]),
    )


def test_the_picture_is_a_function_of_the_stream(make_codec, x):
    codec = make_codec("medium", "fast")
    for point in ("medium,quality=10", "fast,quality=10"):
        streams = codec.compress(x, point)
        together = codec.decompress(streams, point)
        torch.manual_seed(1)
        assert torch.equal(codec.decompress(streams[::-1], point), together.flip(0))
        fresh = make_codec("medium", "fast")
        assert torch.equal(fresh.decompress(streams[1:], point), together[1:])
        assert not torch.equal(codec.decompress(streams, point, seed=5), together)


def test_more_strength_changes_more(make_codec, x):
    codec = make_codec("medium", strength=[0.02, 0.1, 0.4], show_base=False)
    streams = codec.compress(x)
    base = codec.base.decompress(streams)
    changes = []
    for sigma in ("0.02", "0.1", "0.4"):
        changes.append(mse(codec.decompress(streams, f"medium,strength={sigma},quality=10"), base))
    assert changes == sorted(changes)


def test_blends_lie_between_the_base_and_the_enhanced_picture(make_codec, x):
    codec = make_codec("fast", blend=[0, 0.25, 1], show_base=False)
    streams = codec.compress(x)
    pictures = []
    for blend in ("0", "0.25", "1"):
        pictures.append(codec.decompress(streams, f"fast,blend={blend},quality=10"))
    x_hat, mixed, x_tilde = pictures
    assert torch.equal(x_hat, codec.base.decompress(streams))
    torch.testing.assert_close(mixed, 0.75 * x_hat + 0.25 * x_tilde)


@pytest.mark.parametrize("preset", ["fast", "medium"])
def test_auto_doubles_the_error_on_the_calibration_images(make_codec, x, preset):
    codec = make_codec(preset, strength="auto", calibration=lambda: list(x.split(1)))
    codec.calibrate()
    for point in codec.points[:2]:
        sigma = codec.point_facts(point)["strength"]
        assert 0.005 < sigma < 1
        base_point = codec.base_point(point)
        x_hat = codec.base.decompress(codec.base.compress(x, base_point), base_point)
        ratio = 1.0
        for i, (image, decoded) in enumerate(zip(x.split(1), x_hat.split(1), strict=True)):
            enhanced = codec.enhance(decoded, sigma, i, codec._presets[preset], base_point)
            ratio *= mse(enhanced, image) / mse(decoded, image)
        assert 1.75 < ratio**0.5 <= 2
    low, high = (codec._strengths[preset][f"quality={q}"] for q in (10, 60))
    assert low > high  # a better picture bears less noise
    assert codec.point_facts(codec.points[-1]) == {"strength": 0.0}


def test_perceptual_has_the_least_distance_on_the_calibration_images(make_codec, x):
    codec = make_codec("fast", strength="perceptual", calibration=lambda: list(x.split(1)))
    codec.calibrate()
    loss = PerceptualLoss("st-alex", wanted_by="a test")
    point = codec.points[0]
    x_hat = codec.base.decompress(codec.base.compress(x))

    def distance(sigma):
        return sum(
            float(
                loss(
                    codec.enhance(
                        decoded, sigma, i, codec._presets["fast"], codec.base_point(point)
                    )
                    * 2
                    - 1,
                    image * 2 - 1,
                )
            )
            for i, (image, decoded) in enumerate(zip(x.split(1), x_hat.split(1), strict=True))
        )

    found = codec.point_facts(point)["strength"]
    assert distance(found) <= min(map(distance, (0.0, 0.02, 0.1, 0.5))) * 1.001
    assert codec._made_for()["rule"] == "perceptual"


def test_presets_share_what_the_base_makes_of_the_calibration_images(make_codec, x, monkeypatch):
    codec = make_codec("fast", "medium", strength="auto", calibration=lambda: list(x.split(1)))
    coded = []
    compress = codec.base.compress
    monkeypatch.setattr(
        codec.base, "compress", lambda x, point: coded.append(x) or compress(x, point)
    )
    codec.calibrate()
    assert len(coded) == len(x) * len(codec.base.points)


def test_auto_without_images_says_what_to_give(make_codec, x):
    codec = make_codec("fast", strength="auto")
    streams = codec.compress(x[:1])
    message = r"does not calibrate: pass codec\.strength=FILE, written by diffcodec calibrate or"
    with pytest.raises(ValueError, match=message):
        codec.decompress(streams)
    with pytest.raises(ValueError, match=r"codec\.calibration, codec\.strength=FILE"):
        codec.calibrate()


def test_what_was_calibrated_serves_another_decoder(make_codec, x, tmp_path):
    codec = make_codec("fast", strength="auto", calibration=lambda: list(x.split(1)))
    codec.calibrate()
    codec.write_strengths(tmp_path / "strengths.json")
    (stream,) = codec.compress(x[:1])
    other = make_codec("fast", strength=str(tmp_path / "strengths.json"))
    assert torch.equal(other.decompress([stream]), codec.decompress([stream]))


def test_strengths_of_another_run_are_taken(make_codec, x, tmp_path):
    path = tmp_path / "strengths.json"
    path.write_text('{"fast": {"quality=10": 0.25}}')
    codec = make_codec("fast", strength=str(path))
    assert codec.point_facts(codec.points[0]) == {"strength": 0.25}
    expected = make_codec("fast", strength=0.25)
    streams = codec.compress(x)
    assert torch.equal(codec.decompress(streams), expected.decompress(streams))


def test_a_strength_per_image_costs_one_byte_and_doubles_its_error(make_codec, x):
    codec = make_codec("fast", strength="per_image")
    base_streams = codec.base.compress(x)
    streams = codec.compress(x)
    assert [len(s) for s in streams] == [len(s) + 1 for s in base_streams]
    x_hat, x_tilde = codec.base.decompress(base_streams), codec.decompress(streams)
    for i in range(len(x)):
        assert 1.7 < mse(x_tilde[i], x[i]) / mse(x_hat[i], x[i]) <= 2
    assert codec.compress(x) == streams
    with pytest.raises(BitstreamError, match="another codec"):
        codec.base.decompress(streams)
    assert torch.equal(
        codec.decompress(codec.compress(x, "base,quality=10"), "base,quality=10"), x_hat
    )


def test_a_missing_strength_is_a_bad_stream(make_codec):
    codec = make_codec("fast", strength="per_image")
    with pytest.raises(BitstreamError, match="no strength byte"):
        codec.decode([[b""]], 8, 8, [0], codec.points[0])
    assert level_sigma(0) == 0


def test_slow_on_a_codec_without_gradients_is_an_error_at_once(make_codec):
    with pytest.raises(
        ValueError, match=r"slow needs a differentiable base codec, .* PillowCodec is not"
    ):
        make_codec("fast", "slow")


def test_the_constraint_brings_the_base_closer_to_its_own_picture(make_codec, hyperprior, x):
    codec = make_codec("slow", base=hyperprior(), strength=0.2)
    x = x[:1, :, :64, :64]
    streams = codec.compress(x)
    x_hat = codec.base.decompress(streams)
    free = replace(codec._presets["slow"], zeta=0.0, steps=8)
    distances = []
    for preset in (free, replace(free, zeta=0.6)):
        x_tilde = codec.enhance(x_hat, 0.2, 0, preset, codec.base.points[0])
        with torch.no_grad():
            both = [
                codec.base.reconstruct(picture, codec.base.points[0])
                for picture in (x_hat, x_tilde)
            ]
        distances.append((both[0] - both[1]).norm())
    assert distances[1] < 0.97 * distances[0]


def test_the_constraint_works_under_inference_mode(make_codec, hyperprior, x):
    codec = make_codec("slow", base=hyperprior())
    streams = codec.compress(x[:1, :, :64, :64])
    expected = codec.decompress(streams)
    with torch.inference_mode():
        inside = codec.decompress(codec.compress(x[:1, :, :64, :64]))
        assert torch.equal(inside + 0, expected)
    assert not expected.requires_grad


def test_bf16_changes_nothing_beyond_rounding(make_codec, x):
    codec, rounded = make_codec("medium"), make_codec("medium", decode_precision="bf16")
    streams = codec.compress(x)
    difference = (codec.decompress(streams) - rounded.decompress(streams)).abs()
    assert 0 < difference.max() < 0.02


def test_images_keep_their_range_and_size(make_codec):
    codec = make_codec("medium", strength=0.9)
    for size in ((1, 1), (7, 30), (33, 2)):
        image = torch.rand(1, 3, *size)
        x_hat = codec.decompress(codec.compress(image))
        assert x_hat.shape == image.shape
        assert x_hat.min() >= 0
        assert x_hat.max() <= 1


def test_nothing_of_it_is_trained(make_codec, hyperprior):
    codec = make_codec("fast", base=hyperprior())
    assert not codec.trainable
    assert not any(p.requires_grad for p in codec.parameters())


def test_another_prior_decodes_the_same_bytes_another_base_does_not(make_codec, hyperprior, x):
    codec = make_codec("fast", base=hyperprior())
    streams = codec.compress(x)
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.prior.consistency_network.conv_out.bias.add_(0.1)
    other.decompress(streams)
    with torch.no_grad():
        other.base.model.g_s[0].bias.add_(0.1)
    with pytest.raises(BitstreamError, match="other weights"):
        other.decompress(streams)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"strength": "strong"},
            "unknown strength 'strong', choose from auto, perceptual, per_image",
        ),
        ({"strength": -0.1}, "strength must be at least 0"),
        ({"strength": [0.1, "per_image"]}, "cannot be in a list"),
        ({"strength": []}, "strength is an empty list"),
        ({"strength": "nowhere.json"}, "could not read strengths"),
        ({"blend": 1.5}, r"blend must be in \[0, 1\]"),
        ({"decode_precision": "16"}, "unknown decode_precision '16'"),
    ],
)
def test_bad_settings_are_refused(make_codec, options, message):
    with pytest.raises(ValueError, match=message):
        make_codec(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"solver": "heun"},
            "unknown solver 'heun', choose from consistency, ddim, dpmpp_2m, euler_sde",
        ),
        ({"steps": 0}, "steps must be at least 1"),
        ({"sigma_min": 0}, "sigma_min must be above 0"),
        ({"rho": 0.5}, "rho must be at least 1"),
        ({"zeta": -1}, "zeta must be at least 0"),
        ({"zeta": 0.6, "steps": 5}, "needs solver=euler_sde or ddpm, not dpmpp_2m"),
    ],
)
def test_bad_presets_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Preset(**options)


def test_the_solver_follows_the_number_of_steps():
    assert Preset(steps=20).method == "dpmpp_2m"
    assert Preset(steps=21).method == "euler_sde"
    assert Preset("ddim", steps=50).method == "ddim"
