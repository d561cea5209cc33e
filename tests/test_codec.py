import copy

import pytest
import torch
from torch import nn

from diffcodec.codec import BitstreamError, Codec, Decoded, to_uint8
from diffcodec.measuring import MeasuringPass, code_batch, decompress_at
from diffcodec.points import CEILING, Point, combine


class Toy(Codec):
    """Keeps 8-bit pixels, and adds noise in decoding where its weight says so."""

    num_sections = 2

    def __init__(self, noise: float = 0.0, points=("a", "b")):
        super().__init__([Point(name, rate={"kind": name}) for name in points])
        self.noise = nn.Parameter(torch.tensor(noise))
        self.prepared = 0

    def prepare_coding(self):
        self.prepared += 1

    def format_config(self):
        return {"kind": "toy"}

    def encode(self, x, point):
        return [[point.name.encode(), to_uint8(image).numpy().tobytes()] for image in x]

    def decode(self, payloads, height, width, seeds, point):
        images = []
        for (_, pixels), seed in zip(payloads, seeds, strict=True):
            if len(pixels) != 3 * height * width:
                raise BitstreamError("wrong number of pixels")
            image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(3, height, width)
            generator = torch.Generator().manual_seed(seed)
            images.append(image / 255 + self.noise * torch.randn(image.shape, generator=generator))
        return Decoded(torch.stack(images))


@pytest.fixture
def x():
    return torch.rand(3, 3, 7, 5, generator=torch.Generator().manual_seed(0))


def test_points_are_named_and_checked():
    codec = Toy()
    assert [point.name for point in codec.points] == ["a", "b"]
    assert codec.find_point(None).name == "a"
    assert codec.find_point("b") is codec.find_point(codec.points[1]) is codec.points[1]
    with pytest.raises(ValueError, match="'c', choose from a, b"):
        codec.find_point("c")
    with pytest.raises(ValueError, match="duplicate names"):
        Toy(points=("a", "a"))
    with pytest.raises(ValueError, match="at least one"):
        Toy(points=())


def test_noise_is_a_function_of_the_stream_not_of_the_batch(x):
    codec = Toy(noise=0.1)
    streams = codec.compress(x)
    together = codec.decompress(streams)
    for i in (2, 0, 1):
        assert torch.equal(codec.decompress([streams[i]])[0], together[i])
    assert not torch.equal(codec.decompress(streams, seed=1), together)
    assert torch.equal(codec.decompress(streams, seed=1), codec.decompress(streams, seed=1))


@pytest.mark.parametrize(
    "bad",
    [
        torch.rand(3, 8, 8),
        torch.rand(1, 4, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.rand(0, 3, 8, 8),
        torch.rand(1, 3, 0, 8),
        torch.rand(1, 3, 8, 8) * 2,
        torch.full((1, 3, 8, 8), float("nan")),
    ],
)
def test_what_is_no_image_is_refused(bad):
    with pytest.raises(ValueError, match=r"expected|no image|outside|must be"):
        Toy().compress(bad)


def test_streams_of_one_call_have_one_size(x):
    codec = Toy()
    with pytest.raises(ValueError, match="one image size"):
        codec.decompress(codec.compress(x[:1]) + codec.compress(x[:1, :, :6]))
    with pytest.raises(ValueError, match="no stream"):
        codec.decompress([])


def test_the_fingerprint_follows_weights_and_is_not_recomputed_without_need(x):
    codec = Toy(noise=0.5)
    first = codec.fingerprint()
    assert codec.fingerprint() == first
    assert codec.prepared == 1
    assert copy.deepcopy(codec).fingerprint() == first
    with torch.no_grad():
        codec.noise += 1
    assert codec.fingerprint() != first
    assert codec.prepared == 2
    codec.load_state_dict(Toy(noise=0.5).state_dict())
    assert codec.fingerprint() == first


def test_a_stream_of_other_weights_is_refused(x):
    with pytest.raises(BitstreamError):
        Toy(noise=0.5).decompress(Toy(noise=0.25).compress(x))


def test_an_evaluation_step_reports_what_it_wrote(x):
    codec = Toy()
    batch = {"image": x, "index": torch.tensor([4, 9, 2]), "name": ["p", "q", "r"]}
    out = code_batch(codec, batch, codec.points[:1])
    streams = codec.compress(x)
    assert out.index == [4, 9, 2]
    assert out.encoding_seconds > 0
    (decoding,) = out.decodings
    assert decoding.num_bytes == [len(s) for s in streams]
    assert decoding.num_payload_bytes == [1 + x[0].numel()] * 3
    assert decoding.point == codec.points[0]
    assert decoding.seconds > 0
    assert torch.equal(to_uint8(decoding.x_hat), to_uint8(x))


class Brightened(Toy):
    """Decodes the same bytes at several brightnesses; counts how often it encodes."""

    def __init__(self):
        super().__init__()
        self._points = combine(rate={"kind": ["a", "b"]}, decoding={"light": [0.0, 0.1]})
        self.encoded = 0

    def encode(self, x, point):
        self.encoded += 1
        return super().encode(x, point)

    def decode(self, payloads, height, width, seeds, point):
        decoded = super().decode(payloads, height, width, seeds, point)
        return Decoded(decoded.x_hat + point.decoding["light"])

    def ceiling(self, x):
        return x


def test_points_that_share_their_bytes_are_decoded_from_one_encoding(x):
    codec = Brightened()
    batch = {"image": x, "index": torch.arange(3), "name": ["p", "q", "r"]}
    out = MeasuringPass(codec, codec.points[2:], ceiling=True).test_step(batch, 0)
    assert codec.encoded == 1
    assert [decoding.point for decoding in out.decodings] == [*codec.points[2:], CEILING]
    dark, light, best = out.decodings
    assert light.x_hat.mean() > dark.x_hat.mean() + 0.05
    assert torch.equal(best.x_hat, x)
    assert best.seconds is None
    with pytest.raises(ValueError, match="must share their bytes"):
        MeasuringPass(codec)
    with pytest.raises(ValueError, match="must share their bytes"):
        MeasuringPass(codec, [])


def test_validation_looks_at_the_first_point_alone(x):
    codec = Brightened()
    batch = {"image": x, "index": torch.arange(3), "name": ["p", "q", "r"]}
    (decoding,) = codec.validation_step(batch, 0).decodings
    assert decoding.point == codec.points[0]


def test_coding_ignores_autocast(x):
    codec = Toy()
    with torch.autocast("cpu", torch.bfloat16):
        x_hat = codec.decompress(codec.compress(x.bfloat16()))
    assert x_hat.dtype == torch.float32


def test_to_uint8_rounds_and_clamps():
    x = torch.tensor([-0.1, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.2])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255]


def test_trainable_means_a_training_step():
    class Trained(Toy):
        def training_step(self, batch, batch_idx):
            return self.noise

    assert Trained().trainable
    assert not Toy().trainable


def test_what_points_share_is_done_once_and_its_time_counts_for_each(x, monkeypatch):
    class Shares(Brightened):
        def decode(self, payloads, height, width, seeds, point):
            self.once("part", lambda: made.append("part"))
            return super().decode(payloads, height, width, seeds, point)

    made = []
    codec = Shares()
    streams = codec.compress(x)
    clock = iter(range(100))
    monkeypatch.setattr("diffcodec.measuring._clock", lambda codec: next(clock))
    first, second = decompress_at(codec, streams, codec.points[:2])
    assert made == ["part"]
    # A tick for the part, and one before and after it; then the part's, and one around nothing.
    assert [first.seconds * len(x), second.seconds * len(x)] == pytest.approx([3, 2])
    codec.decompress(streams)
    assert made == ["part"] * 2  # nothing is kept
