import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hydra.utils import instantiate

from diffcodec.codec import Codec
from diffcodec.coding.bitstream import BitstreamError, pack_progressive
from diffcodec.diffc import DiffC
from diffcodec.diffc.channel import Poisson
from diffcodec.diffc.codec import Arrived
from diffcodec.measuring import MeasuringPass
from experiments.cli import compose_config
from tests.zero_shot.tiny import stream_of


@pytest.fixture(scope="module")
def codec(make_codec) -> DiffC:
    return make_codec()


@pytest.fixture(scope="module")
def shipped() -> DiffC:
    """The default, over the backbone that ships."""
    return instantiate(compose_config(["codec=diffc"]).codec).eval()


def psnr(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    return float(-10 * (x - x_hat).square().mean().log10())


@pytest.mark.parametrize("channel", ["nearest", "poisson"])
def test_streams_of_lower_rates_begin_those_of_higher_ones(make_codec, photo, channel):
    rates = [0.1, 0.3, 0.31, 1.0, 3.0]
    codec = make_codec(rates, channel=channel)
    x = photo[..., :50, :70]
    streams = [stream_of(codec, x, f"bpp={rate:g}") for rate in rates]
    for short, long in pairwise(streams):
        assert long.startswith(short)
    for stream, rate in zip(streams, rates, strict=True):
        assert rate * 50 * 70 / 8 - 3 < len(stream) <= rate * 50 * 70 / 8


@pytest.mark.parametrize("channel", ["nearest", "poisson"])
def test_an_image_is_encoded_once_for_all_rates(make_codec, photo, channel, monkeypatch):
    rates = [0.05, 0.3, 0.31, 1.0]
    codec = make_codec(rates, channel=channel, decoder=["flow", "mean"])
    x = torch.cat([photo[..., :50, :70], photo[..., 100:150, 200:270]])
    expected = {}
    for point in codec.points:
        streams = codec.compress(x, point)
        expected[point] = [len(stream) for stream in streams], codec.decompress(streams, point)
    sent = []
    send = codec._send
    monkeypatch.setattr(codec, "_send", lambda *args: sent.append(1) or send(*args))
    batch = {"image": x, "index": torch.arange(2), "name": ["a", "b"]}
    decodings = MeasuringPass(codec).test_step(batch, 0).decodings[: len(codec.points)]
    assert len(sent) == 2
    for decoding in decodings:
        assert decoding.num_bytes == expected[decoding.point][0]
        assert torch.equal(decoding.x_hat, expected[decoding.point][1])


@pytest.mark.parametrize("channel", ["nearest", "poisson"])
def test_a_stream_cut_anywhere_decodes_or_is_refused(make_codec, photo, channel):
    codec = make_codec(0.6, channel=channel, decoder="mean")
    (stream,) = codec.compress(photo[..., 200:232, 200:232])
    least = next(n for n in range(len(stream)) if decodes(codec, stream[:n]))
    assert least < 15
    pictures = []
    for length in range(least, len(stream) + 1):
        pictures.append(codec.decompress([stream[:length]]))
        assert pictures[-1].shape == (1, 3, 32, 32)
    different = sum(not torch.equal(*pair) for pair in pairwise(pictures))
    assert different > 0.6 * len(pictures)


def decodes(codec: Codec, stream: bytes) -> bool:
    try:
        codec.decompress([stream])
    except BitstreamError:
        return False
    return True


def test_a_chunk_that_is_cut_is_all_that_is_lost(codec, photo):
    stream = stream_of(codec, photo[..., :64, :64], "bpp=1")
    # Nine bits a chunk: of three bytes in a row at most three chunks are touched.
    for cut in (200, 300, 400):
        levels = codec._read(codec.unpack([stream[:cut]])[0].sections[0], 64, 64).levels
        more = codec._read(codec.unpack([stream[: cut + 3]])[0].sections[0], 64, 64).levels
        counts = [sum(len(indices) for _, indices in read) for read in (levels, more)]
        assert 0 < counts[1] - counts[0] <= 3


def test_the_first_level_is_always_sent(make_codec, photo):
    codec = make_codec(1e-4)
    (stream,) = codec.compress(photo)
    assert codec.decompress([stream]).shape == photo.shape
    with pytest.raises(BitstreamError, match="too short to decode an image"):
        codec.decompress([stream[:-1]])
    with pytest.raises(BitstreamError, match="too short to decode an image"):
        codec.decompress([stream[:9]])


def test_an_image_that_needs_next_to_nothing_has_a_level(codec):
    # A sender whose first estimate is right already.
    x = torch.full((1, 3, 8, 8), 0.5)
    other = copy.deepcopy(codec)
    other.backbone.latents.scale.fill_(1e-9)
    (stream,) = other.compress(x)
    assert other.decompress([stream]).shape == x.shape


def test_corruption_is_found_or_comes_after_the_last_check(codec, photo):
    stream = stream_of(codec, photo[..., :64, :64], "bpp=0.2")
    assert 7 + 64 <= len(stream) < 7 + 128
    for position in range(7 + 64):  # header, and 63 bytes with their check
        broken = bytearray(stream)
        broken[position] ^= 0x10
        with pytest.raises(BitstreamError):
            codec.decompress([bytes(broken)])


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\xff" * 5, bytes(300), b"\xff" * 300, bytes(range(256)) * 4]
)
@pytest.mark.parametrize("channel", ["nearest", "poisson"])
def test_hostile_payloads_end_in_an_error_or_a_picture(make_codec, channel, payload):
    codec = make_codec(channel=channel)
    about: dict = {"height": 40, "width": 24, "fingerprint": codec.fingerprint()}
    try:
        x_hat = codec.decompress([pack_progressive(payload, **about)])
    except BitstreamError:
        return
    assert x_hat.isfinite().all()


def test_bytes_after_the_last_level_are_refused(make_codec, photo):
    codec = make_codec(400.0)  # more than there is to say
    x = photo[..., :16, :16]
    (stream,) = codec.compress(x)
    assert len(stream) < 400 * 256 / 8
    assert codec.decompress([stream]).shape == x.shape
    payload = codec.unpack([stream])[0].sections[0]
    about: dict = {"height": 16, "width": 16, "fingerprint": codec.fingerprint()}
    with pytest.raises(BitstreamError, match="bytes after the last level"):
        codec.decompress([pack_progressive(payload + bytes(50), **about)])


def test_a_stream_that_ends_within_its_caption_is_refused(make_codec, photo):
    codec = make_codec(1.0, caption="a red dog")
    (stream,) = codec.compress(photo[..., :40, :40])
    assert codec.decompress([stream]).shape == (1, 3, 40, 40)
    with pytest.raises(BitstreamError):
        codec.decompress([stream[:14]])


def test_settings_that_change_the_bytes_change_the_fingerprint(make_codec, codec):
    for options in ({"channel": "poisson"}, {"chunk_bits": 4.0}, {"growth": 0.5}):
        assert make_codec(**options).fingerprint() != codec.fingerprint()


def test_an_unknown_channel_is_refused(make_codec):
    with pytest.raises(ValueError, match="'x', choose from nearest, poisson"):
        make_codec(channel="x")


def test_poisson_is_a_setting():
    codec = instantiate(compose_config(["codec=diffc", "codec.channel=poisson"]).codec)
    assert isinstance(codec.channel, Poisson)


@pytest.fixture(scope="module")
def crop(photo):
    return photo[..., 64:320, 128:384]


@pytest.fixture(scope="module")
def shipped_stream(shipped, crop) -> bytes:
    return stream_of(shipped, crop, "bpp=0.06")


def picture(codec: DiffC, stream: bytes, decoder: str = "mean") -> torch.Tensor:
    """As another decoder shows it."""
    other = copy.copy(codec)
    point = codec.points[0]
    point = replace(point, decoding={**point.decoding, "decoder": decoder})
    other._points = (point,)
    return other.decompress([stream])


@pytest.mark.parametrize("decoder", ["flow", "mean"])
def test_half_precision_decodes_the_same_picture(shipped, crop, decoder):
    # A small one: where a CPU has no instructions for it, half precision takes ten times as long.
    stream = stream_of(shipped, crop[..., :96, :96], "bpp=0.06")
    expected = picture(shipped, stream, decoder)
    other = copy.copy(shipped)
    other.decode_precision = "bf16"
    assert psnr(expected, picture(other, stream, decoder)) > 45


def test_the_number_of_threads_does_not_change_the_picture(shipped, shipped_stream):
    before = torch.get_num_threads()
    pictures = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            pictures.append(picture(shipped, shipped_stream))
    finally:
        torch.set_num_threads(before)
    assert psnr(*pictures) > 60


@pytest.mark.slow
@torch.no_grad()
def test_pictures_get_better_level_by_level(shipped, photo):
    crops = [photo[..., i : i + 128, j : j + 128] for i, j in ((0, 128), (200, 60), (330, 300))]
    curves = []
    for x in crops:
        payload = shipped.unpack(shipped.compress(x, "bpp=0.06"))[0].sections[0]
        levels = shipped._read(payload, 128, 128).levels
        curve = []
        for count in range(1, len(levels)):
            latent = shipped._receive(Arrived(None, levels[:count], []), 128, 128).x0
            curve.append(psnr(x, shipped.backbone.latents.decode(latent).clamp(0, 1)))
        curves.append(curve)
    values = torch.tensor([curve[: min(map(len, curves))] for curve in curves])
    assert (values.diff(dim=1).median(0).values > 0).all()
    assert (values[:, -1] > values[:, 0] + 3).all()


def test_the_enhancer_goes_over_it(crop):
    overrides = ["codec.base.bpp=[0.05]", "codec.base.log2_candidates=10", "codec.strength=0.05"]
    cfg = compose_config(["codec=sdedit", "codec/base=diffc", "codec/preset=fast", *overrides])
    enhancer = instantiate(cfg.codec).eval()
    x = crop[..., :64, :64]
    (stream,) = enhancer.compress(x, enhancer.points[0])
    assert enhancer.base.compress(x) == [stream]
    assert enhancer.decompress([stream[:-3]], enhancer.points[0]).shape == x.shape
