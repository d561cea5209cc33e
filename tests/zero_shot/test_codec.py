"""What DiffC and DDCM share."""

from functools import partial

import pytest
import torch
from hydra.utils import instantiate

import diffcodec
from diffcodec.codec import Codec
from diffcodec.latent.pixel import pixel_backbone
from diffcodec.latent.stable_diffusion import stable_diffusion
from diffcodec.measuring import decompress_at
from diffcodec.perco.palette import PaletteCaptioner
from experiments.build import is_untrained, refuse_untrained
from experiments.cli import compose_config
from tests.latent.tiny import save_pipeline, save_pixel_model, tiny_backbone
from tests.zero_shot.tiny import METHODS, new_codec, payload_of, stream_of, tiny_codec


@pytest.fixture(scope="module", params=METHODS)
def method(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def make_codec(method):
    """Options -> a tiny codec in eval mode; its weights are random, the same every time."""
    return partial(tiny_codec, method)


def captions_of(codec: Codec, streams: list[bytes]) -> list[str | None]:
    """The captions in streams of images of 40x40 pixels."""
    return [codec._read(payload_of(codec, stream), 40, 40).caption for stream in streams]


def test_a_caption_is_sent_and_told_to_the_network(make_codec, photo):
    codec = make_codec(1.0, caption=[None, "a red dog"], guidance=[1.0, 3.0])
    x = photo[..., :40, :40]
    plain, captioned = (
        stream_of(codec, x, f"bpp=1,caption={caption},guidance=1")
        for caption in ("null", "a red dog")
    )
    assert captions_of(codec, [plain, captioned]) == [None, "a red dog"]
    assert len(captioned) <= 1.0 * 40 * 40 / 8
    pictures = []
    for guidance in (1, 3):
        pictures.append(
            codec.decompress([captioned], f"bpp=1,caption=a red dog,guidance={guidance}")
        )
    assert not torch.equal(*pictures)


def test_a_captioner_gives_each_image_its_own(make_codec, photo):
    codec = make_codec(1.0, captioner=lambda x, batch=None: [f"dog {n}" for n in batch["name"]])
    x = torch.cat([photo[..., :40, :40], photo[..., :40, :40]])
    streams = codec.compress(x, about={"name": ["a", "b"]})
    assert captions_of(codec, streams) == ["dog a", "dog b"]
    unnamed = make_codec(1.0, captioner=lambda x, batch=None: [f"dog {name}" for name in "ab"])
    assert unnamed.compress(x) == streams
    # Captions that are passed replace the captioner's.
    assert codec.compress(x, captions=["dog a", "dog b"]) == streams
    other = codec.compress(x, captions=["a cat", None])
    assert captions_of(codec, other) == ["a cat", None]
    fixed = make_codec(1.0, captioner=codec.captioner, caption="a cat")
    assert captions_of(fixed, fixed.compress(x[:1])) == ["a cat"]


def test_captioners_are_those_of_perco(method):
    built = instantiate(compose_config([f"codec={method}", "codec/captioner=palette"]).codec)
    assert isinstance(built.captioner, PaletteCaptioner)
    plain = instantiate(compose_config([f"codec={method}"]).codec)
    assert plain.captioner(torch.rand(2, 3, 8, 8)) == [None, None]


def test_decoders_make_pictures_of_the_same_bytes(make_codec, photo):
    codec = make_codec(1.0, decoder=["flow", "ancestral", "mean"], steps=[2, 3])
    assert len(codec.points) == 6
    assert all(codec.points[0].shares_bytes_with(point) for point in codec.points)
    streams = codec.compress(photo[..., :40, :40])
    decodings = list(decompress_at(codec, streams, codec.points))
    assert all(decoding.seconds > 0 for decoding in decodings)
    pictures = [decoding.x_hat for decoding in decodings]
    assert torch.equal(codec.decompress(streams, codec.points[-1]), pictures[-1])
    names = [point.name for point in codec.points]
    for i, picture in enumerate(pictures):
        for j in range(i):
            same = all("mean" in names[k] for k in (i, j))  # which takes no steps
            assert torch.equal(picture, pictures[j]) == same


@pytest.mark.parametrize("size", [(1, 1), (9, 100), (33, 40)])
@pytest.mark.parametrize("window", [None, 2, 8])
def test_any_size(make_codec, photo, size, window):
    codec = make_codec(0.5, window=window)
    x = photo[..., : size[0], : size[1]]
    (stream,) = codec.compress(x)
    assert codec.decompress([stream]).shape == x.shape


def test_settings_that_change_the_bytes_change_the_fingerprint(make_codec):
    fingerprint = make_codec().fingerprint()
    for options in ({"bits": 9}, {"grid_steps": 50}, {"window": 8}, {"text_coder": "zlib"}):
        assert make_codec(**options).fingerprint() != fingerprint
    assert make_codec(0.7, decoder="mean", steps=9).fingerprint() == fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bpp": [0.1, 0]}, "bpp must be positive, got 0"),
        ({"decoder": "sde"}, "'sde', choose from flow, ancestral, mean"),
        ({"sampler": "x"}, "'x', choose from"),
        ({"sampler": "euler_sde"}, "decoder=ancestral"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"window": 3}, "window must be a multiple of 2, got 3"),
        ({"text_coder": "x"}, "'x', choose from"),
        ({"decode_precision": 16}, "16"),
    ],
)
def test_wrong_settings_are_refused(make_codec, options, message):
    with pytest.raises(ValueError, match=message):
        make_codec(**options)


def test_an_untrained_backbone_is_refused(method):
    cfg = compose_config([f"codec={method}", "codec.backbone.weights=null"])
    codec = METHODS[method](tiny_backbone(), 0.1)
    assert not codec.trainable
    assert is_untrained(codec, cfg)
    with pytest.raises(ValueError, match=r"codec\.backbone\.weights="):
        refuse_untrained(codec, cfg)
    cfg = compose_config([f"codec={method}"])
    assert not is_untrained(instantiate(cfg.codec), cfg)


def check_streams_at_two_rates(codec: Codec, x: torch.Tensor) -> None:
    """Check the sizes of a codec's streams, and that they decode."""
    streams = [stream_of(codec, x, point) for point in codec.points]
    for stream, point in zip(streams, codec.points, strict=True):
        assert len(stream) <= point.rate["bpp"] * x.shape[-2] * x.shape[-1] / 8
        assert codec.decompress([stream], point).shape == x.shape
    short, long = streams
    assert long.startswith(short) == codec.progressive


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_stable_diffusion_is_a_backbone(method, photo, tmp_path, prediction_type):
    backbone = stable_diffusion(str(save_pipeline(tmp_path, prediction_type)))
    codec = new_codec(method, backbone, [0.1, 1.0], caption="a red dog")
    assert codec.pretrained
    check_streams_at_two_rates(codec, photo[..., :72, :100])


def test_a_model_of_pixels_is_a_backbone(method, photo, tmp_path):
    backbone = pixel_backbone(str(save_pixel_model(tmp_path)))
    codec = new_codec(method, backbone, [0.5, 2.0], bits=10)
    x = photo[..., :21, :34]
    check_streams_at_two_rates(codec, x)
    assert codec.ceiling(x) is None
    again = diffcodec.load(str(codec.save(tmp_path / "model")))
    assert again.fingerprint() == codec.fingerprint()
    with pytest.raises(ValueError, match="takes no caption, got 'a dog'"):
        new_codec(method, backbone, 1.0, caption="a dog")
    with pytest.raises(ValueError, match="takes no caption, got 'a dog'"):
        codec.compress(x, captions=["a dog"])
