import subprocess
import sys

import pytest
import torch

from diffcodec.cdc import CDC
from diffcodec.cdc.coder import means_then_scales
from diffcodec.coding.bitstream import BitstreamError
from tests.cdc.tiny import build, encode_latents
from tests.seams import seam_ratio


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 3, 70, 33, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 1), (70, 130)])
def test_any_size_comes_back(codec, size):
    x = torch.rand(1, 3, *size)
    x_hat = codec.decompress(codec.compress(x))
    assert x_hat.shape == x.shape
    assert x_hat.isfinite().all()
    assert x_hat.min() >= 0
    assert x_hat.max() <= 1


def test_points_are_all_pairs_and_share_their_bytes(x):
    codec = build(steps=[1, 3], gamma=[0, 0.8])
    assert tuple(p.name for p in codec.points) == (
        "lmbda=0.0032,steps=1,gamma=0",
        "lmbda=0.0032,steps=1,gamma=0.8",
        "lmbda=0.0032,steps=3,gamma=0",
        "lmbda=0.0032,steps=3,gamma=0.8",
    )
    streams, pictures = [], []
    for point in codec.points:
        streams.append(codec.compress(x, point))
        pictures.append(codec.decompress(streams[0], point))
    assert all(stream == streams[0] for stream in streams)
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


def test_several_samples_of_a_stream_differ_where_there_is_noise(x):
    codec = build(gamma=[0, 0.8], num_samples=3)
    streams = codec.compress(x[:1])
    pictures = {}
    for point in codec.points:
        settings = point.decoding
        pictures[settings["gamma"], settings["sample"]] = codec.decompress(streams, point)
    assert torch.equal(pictures[0, 0], pictures[0, 2])
    noisy = [pictures[0.8, sample] for sample in range(3)]
    assert all(not torch.equal(a, b) for i, a in enumerate(noisy) for b in noisy[:i])
    plain = build(gamma=0.8)
    assert torch.equal(noisy[0], plain.decompress(streams))


def test_decoding_that_stops_shows_x_n(x):
    codec = build(gamma=[0, 0.8], progress=[0, 0.34, 1], steps=3)
    streams = codec.compress(x[:1])
    seen = {}
    for point in codec.points:
        settings = point.decoding
        seen[settings["gamma"], settings["progress"]] = codec.decompress(streams, point)
    assert torch.equal(seen[0, 0], torch.full_like(seen[0, 0], 0.5))  # x_N = 0 is grey
    assert torch.equal(seen[0.8, 1], build(gamma=0.8).decompress(streams))
    noise = torch.randn(1, 3, 128, 64, generator=torch.Generator().manual_seed(5))
    start = codec.decompress(streams, "lmbda=0.0032,gamma=0.8,progress=0", seed=5)
    expected = ((0.8 * noise[..., :70, :33] + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(start, expected, rtol=0, atol=1e-6)
    # One step of three: x_n = sqrt(abar) x0 + sqrt(1 - abar) eps, at neither end.
    assert not torch.equal(seen[0.8, 0.34], seen[0.8, 0])
    assert not torch.equal(seen[0.8, 0.34], seen[0.8, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"progress": [0, 1.5]}, r"progress must be in \[0, 1\], got \[0.0, 1.5\]"),
    ],
)
def test_samples_and_progress_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        assert [p.decoding for p in CDC(width=2).points] == [{"steps": 17, "gamma": 0.0}]
        assert [p.decoding for p in CDC("eps", width=2).points] == [{"steps": 200, "gamma": 0.0}]


def test_the_picture_depends_on_the_stream_and_not_on_the_batch(x):
    codec = build(gamma=0.8)
    streams = codec.compress(x)
    together = codec.decompress(streams)
    assert torch.equal(codec.decompress(streams[::-1]), together.flip(0))
    assert torch.equal(codec.decompress(streams[1:]), together[1:])
    assert codec.compress(x[1:])[0] == streams[1]


def test_a_seed_changes_the_texture_only_where_there_is_noise(x):
    codec = build(gamma=[0, 0.8])
    streams = codec.compress(x)
    assert torch.equal(codec.decompress(streams, seed=1), codec.decompress(streams, seed=2))
    assert not torch.equal(
        codec.decompress(streams, codec.points[1], seed=1),
        codec.decompress(streams, codec.points[1], seed=2),
    )


def test_the_decoder_has_the_encoders_y_hat(codec, x):
    coder = codec._prepared()
    for image in x.split(1):
        padded = torch.nn.functional.pad(image * 2 - 1, (0, 31, 0, 58), mode="replicate")
        with torch.no_grad():
            y = codec.compressor.g_a(padded)
            _, y_hat = encode_latents(coder, y, codec.compressor.h_a(y))
        (payload,) = codec.encode(image, codec.points[0])
        assert torch.equal(coder.decode(payload, 2, 1, means_then_scales), y_hat)


def test_other_weights_are_refused_but_another_encoder_is_not(x):
    codec, other = build(), build()
    with torch.no_grad():
        other.compressor.g_a[0].res.conv1.bias.add_(1)
    codec.decompress(other.compress(x))
    with torch.no_grad():
        other.compressor.h_s[0].bias.add_(1)
    with pytest.raises(BitstreamError, match="other weights"):
        codec.decompress(other.compress(x))


def test_changed_weights_get_new_entropy_tables(x):
    codec, fresh = build(), build()
    codec.compress(x)
    for one in (codec, fresh):
        with torch.no_grad():
            one.compressor.entropy_bottleneck.biases[0].add_(0.3)
    assert codec.compress(x) == fresh.compress(x)


def test_malformed_sections_are_refused(codec, x):
    payload = codec.encode(x[:1], codec.points[0])[0]
    with pytest.raises(BitstreamError):
        codec.decode([[payload[0][:-4], payload[1]]], 70, 33, [0], codec.points[0])
    with pytest.raises(BitstreamError):
        codec.decode([payload], 700, 330, [0], codec.points[0])


# Few steps: an untrained network makes a hundredfold of a difference in every further one.
@pytest.mark.parametrize(("prediction", "steps"), [("x0", 1), ("eps", 3)])
def test_bf16_and_channels_last_change_nothing_beyond_rounding(prediction, steps, x):
    codec = build(prediction, steps=steps, gamma=0.8)
    stream = codec.compress(x)
    expected = codec.decompress(stream)
    codec.to(memory_format=torch.channels_last)
    assert (codec.decompress(stream) - expected).abs().max() < 1e-3
    codec.decode_precision = "bf16"
    assert (codec.decompress(stream) - expected).abs().mean() < 0.02


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_sde"])
def test_the_sampler_is_the_decoders_choice(x, sampler):
    codec, other = build(gamma=0.8), build(gamma=0.8, sampler=sampler)
    stream = codec.compress(x[:1])
    assert other.compress(x[:1]) == stream
    x_hat = other.decompress(stream)
    assert not torch.equal(x_hat, codec.decompress(stream))
    assert torch.equal(x_hat, other.decompress(stream))  # noise of the SDE is the stream's, too
    assert not torch.equal(x_hat, other.decompress(stream, seed=0))


@pytest.mark.slow
def test_compiling_changes_nothing_beyond_rounding(x):
    codec, compiled = build(steps=1), build(steps=1, compile=True)
    stream = codec.compress(x)
    expected = codec.decompress(stream)
    torch.testing.assert_close(compiled.decompress(stream), expected, rtol=0, atol=1e-3)
    assert compiled.state_dict().keys() == codec.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "v"}, r"'v'.*'x0', 'eps'"),
        ({"steps": 0}, "steps must be in 1 to 8193, got 0"),
        ({"gamma": [0, -1]}, "gamma must be at least 0"),
        ({"rho": 1.0}, r"rho must be in \[0, 1\), got 1.0"),
        ({"decode_precision": "fp8"}, r"'fp8'.*'32', 'bf16'"),
        ({"sampler": "heun"}, "unknown sampler 'heun', choose from ddim, dpmpp_2m, euler_sde"),
        ({"steps": [3, 3]}, "duplicate names"),
        ({"context_steps": 5}, "context_steps=5 needs a context_weight above 0"),
        *(
            ({"context_weight": 0.5, **narrow}, f"context_weight=0.5 .* got context_channels={n}")
            for n, narrow in (
                (1, {"context_channels": 1}),
                (2, {"context_channels": 2, "prediction": "eps"}),
                (2, {"width": 2}),
            )
        ),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CDC(**{"width": 4, **options})


def test_importing_it_does_not_import_compressai():
    code = "import sys, diffcodec.cdc; sys.exit('compressai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_and_a_cpu_read_each_others_streams(x):
    cpu, gpu = build(gamma=0.8), build(gamma=0.8).cuda()
    for writer in (cpu, gpu):
        streams = writer.compress(x)
        torch.testing.assert_close(
            gpu.decompress(streams).cpu(), cpu.decompress(streams), rtol=0, atol=1e-2
        )


def test_images_larger_than_the_window_have_the_same_stream_and_no_seams(photo):
    x = photo[..., :64, :300]
    whole, tiled = build(), build(window=192)
    stream = whole.compress(x)
    assert tiled.compress(x) == stream
    one, other = whole.decompress(stream), tiled.decompress(stream)
    assert not torch.equal(one, other)  # attention sees a tile in place of the image
    assert seam_ratio(other, one, 192, 64) < 3


def test_a_window_is_whole_blocks():
    with pytest.raises(ValueError, match="window must be a multiple of 64, got 100"):
        CDC(window=100)
