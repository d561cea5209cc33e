import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

import diffcodec
from diffcodec.codec import to_uint8
from diffcodec.coding.bits import BitReader
from diffcodec.coding.bitstream import BitstreamError, pack
from diffcodec.ddcm import DDCM
from diffcodec.ddcm.codebook import Codebook
from experiments.cli import compose_config
from tests.zero_shot.tiny import payload_of, stream_of


@pytest.fixture(scope="module")
def codec(make_codec) -> DDCM:
    return make_codec()


@pytest.fixture(scope="module")
def shipped() -> DDCM:
    """The default, over the backbone that ships."""
    return instantiate(compose_config(["codec=ddcm"]).codec).eval()


def psnr(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    error = (to_uint8(x).double() - to_uint8(x_hat).double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


@pytest.mark.parametrize("rate", [0.3, 0.7, 2.0])
def test_a_rate_is_filled_and_not_exceeded(make_codec, photo, rate):
    codec = make_codec(rate, log2_atoms=12)
    (stream,) = codec.compress(photo[..., :50, :70])
    sent = codec._read(payload_of(codec, stream), 50, 70)
    assert 4 <= len(sent.levels) <= 5
    assert 8 * len(stream) <= rate * 50 * 70
    assert 8 * len(stream) + sent.codebook.num_bits > rate * 50 * 70 - 16
    # With one atom more, four levels would not fit.
    assert 4 * Codebook(4096, sent.codebook.atoms + 1).num_bits > rate * 50 * 70 - 8 * 13


def test_where_one_atom_is_too_many_there_are_fewer_levels_but_one(make_codec, photo):
    codec = make_codec([0.001, 0.035])
    counts = []
    for point in codec.points:
        stream = stream_of(codec, photo[..., :50, :70], point)
        sent = codec._read(payload_of(codec, stream), 50, 70)
        assert sent.codebook.atoms == 1
        counts.append(len(sent.levels))
    assert counts == [1, 3]


def test_atoms_may_be_given(make_codec, photo):
    codec = make_codec(None, M=[2, 5], T=[3, 6])
    assert [point.name for point in codec.points] == ["M=2,T=3", "M=2,T=6", "M=5,T=3", "M=5,T=6"]
    stream = stream_of(codec, photo[..., :40, :40], "M=5,T=6")
    sent = codec._read(payload_of(codec, stream), 40, 40)
    assert (sent.codebook.atoms, len(sent.levels)) == (5, 6)
    bits = 8 + 5 + 2 + 6 * (2 + math.ceil(math.log2(math.comb(256, 5))) + 5)
    assert len(payload_of(codec, stream)) == -(-bits // 8)


def test_a_psnr_may_be_given(make_codec, shipped, photo):
    codec = DDCM(shipped.backbone, psnr=[15.0, 17.0], T=3, steps=2, log2_atoms=12, grid_steps=50)
    codec.eval()
    x = photo[..., 100:164, 100:164]
    atoms = []
    for point, target in zip(codec.points, (15.0, 17.0), strict=True):
        stream = stream_of(codec, x, point)
        assert psnr(x, codec.decompress([stream])) >= target
        atoms.append(codec._read(payload_of(codec, stream), 64, 64).codebook.atoms)
    assert atoms[0] < atoms[1] < 32  # an eighth of 256
    unreachable = make_codec(None, psnr=90.0, T=2)
    (stream,) = unreachable.compress(photo[..., :32, :32])
    assert unreachable._read(payload_of(unreachable, stream), 32, 32).codebook.atoms == 8


def test_more_atoms_bring_the_picture_closer(shipped, photo):
    x = photo[..., 64:192, 128:256]
    codec = DDCM(shipped.backbone, M=[4, 16, 64], T=8, decoder="mean", grid_steps=50).eval()
    found = []
    for point in codec.points:
        stream = stream_of(codec, x, point)
        found.append(psnr(x, codec.decompress([stream])))
    assert found[0] + 1 < found[1] < found[2] - 1


def test_the_decoder_holds_what_the_sender_did(codec, photo):
    x = photo[..., :40, :48]
    x0 = codec._latent_of(x)
    book, T = codec._fit(1.0, None, 40, 48, T=4)
    held = []
    refinement = codec._walk
    codec._walk = lambda *args: held.append(shared := refinement(*args)) or shared
    try:
        with torch.no_grad():
            payload = codec._send(x0, (40, 48), None, None, book, T)
            received = codec._receive(codec._read(payload, 40, 48), 40, 48)
    finally:
        del codec._walk
    assert torch.equal(held[0].x, received.x)
    assert held[0].error(x0) < 0.9 * codec._walk(40, 48, None, book).error(x0)


def test_where_weights_are_higher_the_picture_is_closer(shipped, photo):
    x = photo[..., 64:192, 128:256]
    codec = DDCM(shipped.backbone, M=20, T=8, decoder="mean", grid_steps=50).eval()
    left = torch.ones(1, 1, 128, 128)
    left[..., 64:] = 0.1
    pictures = {
        name: codec.decompress(codec.compress(x, priority=weights))
        for name, weights in (("left", left), ("right", left.flip(-1)), ("even", None))
    }
    halves = {
        name: (psnr(x[..., :64], y[..., :64]), psnr(x[..., 64:], y[..., 64:]))
        for name, y in pictures.items()
    }
    assert halves["left"][0] > halves["even"][0] + 0.3
    assert halves["right"][1] > halves["left"][1] + 0.3
    assert halves["left"][1] < halves["even"][1]
    # Only proportions count.
    assert codec.compress(x, priority=7 * left) == codec.compress(x, priority=left)


def test_maps_are_read_by_the_images_names(make_codec, photo, tmp_path):
    codec = make_codec(1.0, priority=str(tmp_path))
    x = torch.cat([photo[..., :32, :32], photo[..., 100:132, :32]])
    weights = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    weights[0, :, :9], weights[1, :, :, 20:] = 255, 90
    for name, picture in zip("ab", weights, strict=True):
        Image.fromarray(picture[0].numpy()).save(tmp_path / f"{name}.png")
    streams = codec.compress(x, about={"name": ["a.jpg", "b.jpg"]})
    assert streams == codec.compress(x, priority=weights.float() / 255)
    assert streams != codec.compress(x)
    with pytest.raises(ValueError, match=r"priority map .*c\.png does not exist"):
        codec.compress(x[:1], about={"name": ["c.png"]})
    for wrong in (torch.ones(2, 1, 32, 31), -torch.ones(2, 1, 32, 32)):
        with pytest.raises(ValueError, match=r"priority must have shape \(2, 1, 32, 32\)"):
            codec.compress(x, priority=wrong)


def test_a_codebook_has_as_many_atoms_as_a_latent_has_numbers(make_codec):
    codec = make_codec(0.5)
    assert codec._num_atoms(8, 8) == 256  # log2_atoms=8, 4 numbers
    assert codec._num_atoms(128, 128) == 1024
    assert codec._num_atoms(128, 129) == 2048


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "ends before its first level"),
        (b"\x00", "ends before its first level"),
        (b"\x00\x00", "the stream has 0"),
        (b"\x00\x88", "ends before its first level"),
        (b"\x00\xff\xff\xff\xff\xff", "must be in 1 to 128"),
        (b"\xff" * 3, "ends before its first level"),
        (b"\x00\x08" + bytes(2000), "bytes after the last level"),
        (b"\x00\x08\x00\x00\x01", "does not end with its last level"),
    ],
)
def test_wrong_payloads_are_refused(codec, payload, message):
    about: dict = {"height": 40, "width": 24, "fingerprint": codec.fingerprint()}
    with pytest.raises(BitstreamError, match=message):
        codec.decompress([pack([payload], **about)])


def test_a_stream_has_no_bits_but_those_of_its_levels(codec, photo):
    payload = payload_of(codec, stream_of(codec, photo[..., :40, :24], "bpp=1"))
    book = codec._read(payload, 40, 24).codebook
    assert 8 * len(payload) < 8 + 5 + 9 + 4 * (2 + book.num_bits) + 8
    reader = BitReader(payload)
    assert reader.read(1) == 0  # no caption


def test_the_number_of_levels_does_not_change_the_fingerprint(make_codec, codec):
    assert make_codec(0.7, decoder="mean", steps=9, T=7).fingerprint() == codec.fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bpp": None}, "pass exactly one of bpp, M, psnr, got none"),
        ({"M": 3}, "pass exactly one of bpp, M, psnr, got bpp, M"),
        ({"T": 0}, "T must be in 1 to 256, got 0"),
        ({"T": [3, 257]}, "T must be in 1 to 256, got 257"),
        ({"log2_atoms": 7}, "log2_atoms must be in 8 to 20, got 7"),
    ],
)
def test_wrong_settings_are_refused(make_codec, options, message):
    with pytest.raises(ValueError, match=message):
        make_codec(**options)


def test_what_ships_loads_by_its_name(shipped):
    codec = diffcodec.load("ddcm")
    assert codec.fingerprint() == shipped.fingerprint()
    assert [point.name for point in codec.points] == [point.name for point in shipped.points]


def test_its_yaml_names_every_argument():
    text = (Path(__file__).parents[2] / "experiments/configs/codec/ddcm.yaml").read_text()
    assert "bpp: [0.0035, 0.01, 0.02, 0.033, 0.06]" in text
    codec = instantiate(compose_config(["codec=ddcm", "codec.bpp=null", "codec.M=7"]).codec)
    assert codec.points[0].rate == {"M": 7}
