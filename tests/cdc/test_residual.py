import copy
import math
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader

import diffcodec
from diffcodec.base.classical import PillowCodec
from diffcodec.base.vbr import VariableRateCodec
from diffcodec.cdc import ResidualCDC
from diffcodec.codec import Codec, Decoded
from diffcodec.measuring import decompress_at
from diffcodec.networks.padding import pad_around
from diffcodec.weights.model_folder import saved_state
from experiments.build import build_codec, refuse_untrained, refuse_untrained_parts
from experiments.cli import compose_config
from tests.seams import seam_ratio
from tests.trainers import quiet_trainer

SIGMA_DATA = 0.08


def jpeg() -> PillowCodec:
    return PillowCodec("JPEG", quality=[10, 60])


def hyperprior() -> VariableRateCodec:
    return VariableRateCodec(level=[1, 5], weights="mbt2018_mean_vbr")


BASES = {"jpeg": jpeg, "hyperprior": hyperprior}


def build(base: Codec | None = None, *, untrained: bool = False, **options) -> ResidualCDC:
    """A small codec whose network does something unless it is untrained, always the same."""
    torch.manual_seed(0)
    codec = ResidualCDC(base or jpeg(), width=4, **{"steps": 2, **options}).eval()
    if not untrained:
        with torch.no_grad():
            codec.unet.conv_out.weight.normal_(std=0.05)
    return codec


@pytest.fixture(params=BASES)
def base(request) -> Codec:
    return BASES[request.param]().eval()


@pytest.fixture
def x(photo) -> Tensor:
    """Two photographs (2, 3, 72, 100) in [0, 1]."""
    return torch.cat([photo[..., 20:92, 180:280], photo[..., 300:372, 60:160]])


@pytest.fixture
def loader(photo) -> DataLoader:
    crops = [photo[0, :, i : i + 64, 2 * i : 2 * i + 64] for i in range(0, 160, 20)]
    items = [{"image": crop, "index": i, "name": f"{i}"} for i, crop in enumerate(crops)]
    return DataLoader(items, batch_size=4)


def test_streams_are_the_base_codecs_and_each_decodes_the_others(base, x):
    codec, alone = build(base, gamma=[0.0, 1.0]), copy.deepcopy(base)
    for point in codec.points:
        streams = codec.compress(x, point)
        assert streams == alone.compress(x, codec.base_point(point))
        assert not torch.equal(
            codec.decompress(streams, point), alone.decompress(streams, codec.base_point(point))
        )


def test_parts_of_a_stream_are_counted_as_by_the_base(x):
    class Counting(PillowCodec):
        def num_part_bytes(self, sections):
            return {"text": 3, "codes": len(sections[0]) - 3}

    codec = build(Counting("JPEG", quality=[10]))
    streams = codec.compress(x)
    (decoding,) = decompress_at(codec, streams, codec.points)
    lengths = [len(contents.sections[0]) for contents in codec.unpack(streams)]
    assert decoding.num_part_bytes == [{"text": 3, "codes": n - 3} for n in lengths]


def test_points_are_the_bases_at_all_pairs_of_steps_and_gamma():
    codec = build(steps=[1, 3], gamma=[0, 0.8])
    names = [
        f"quality={quality},steps={steps},gamma={gamma}"
        for quality in (10, 60)
        for steps in (1, 3)
        for gamma in ("0", "0.8")
    ]
    assert [point.name for point in codec.points] == names
    assert codec.points[3].settings == {"quality": 10, "steps": 3, "gamma": 0.8}
    assert codec.points[3].series == "steps=3,gamma=0.8"
    assert [point.name for point in build().points] == ["quality=10", "quality=60"]
    assert build().points[0].series == ""
    assert build().points[0].decoding == {"steps": 2, "gamma": 0.0}


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_untrained_and_without_noise_it_returns_the_bases_picture(base, x, sampler):
    codec = build(base, untrained=True, steps=3, gamma=[0, 1], sampler=sampler)
    streams = codec.compress(x)
    x_hat = codec.compressor.decompress(streams)
    torch.testing.assert_close(codec.decompress(streams), x_hat, rtol=0, atol=1e-6)
    assert (codec.decompress(streams, codec.points[1]) - x_hat).abs().max() > 1e-3


def test_an_untrained_decoder_adds_what_the_closed_form_says(x):
    """With F = 0 the denoiser is that of residuals which are white noise of sigma_data."""
    codec = build(untrained=True, gamma=1.0, steps=400, sigma_max=2.0, sigma_min=1e-4)
    (stream,) = codec.compress(x[:1])
    added = 2 * (codec.decompress([stream]) - codec.compressor.decompress([stream]))
    # The ODE takes noise of sigma_max to the data's deviation.
    inside = added[(added.abs() > 0) & (added.abs() < 0.5)]
    assert inside.std() == pytest.approx(SIGMA_DATA, rel=0.05)


def test_the_denoiser_is_edms_around_the_bases_picture(x, monkeypatch):
    """D(x; sigma) = x_hat + c_skip r + c_out F(c_in r, ln(sigma) / 4), r = x - x_hat."""
    seen, calls = {}, {}
    codec = build(gamma=1.0)
    make_denoiser = codec.denoiser

    def watched(*args):
        denoiser = make_denoiser(*args)
        network = denoiser.network
        denoiser.network = lambda *inputs, **condition: calls.setdefault(
            "out", (inputs, network(*inputs, **condition))
        )[1]
        return denoiser

    def denoise(denoiser, r, sigmas, *, noise, overwrite, **condition):
        for sigma in (1e-8, 0.05, 1e6):
            calls.clear()
            D = denoiser(r, torch.tensor(sigma, dtype=torch.float64), **condition)
            seen[sigma] = (r.clone(), D, *calls["out"])
        return r

    monkeypatch.setattr(codec, "denoiser", watched)
    monkeypatch.setattr("diffcodec.cdc.residual.find_sampler", lambda name: denoise)
    codec.decompress(codec.compress(x[:1]))
    r, D, (scaled, time), F = seen[0.05]
    total = 0.05**2 + SIGMA_DATA**2
    torch.testing.assert_close(scaled, r / math.sqrt(total))
    torch.testing.assert_close(time, torch.tensor([math.log(0.05) / 4]))
    expected = SIGMA_DATA**2 / total * r + 0.05 * SIGMA_DATA / math.sqrt(total) * F
    torch.testing.assert_close(D, expected)
    r, D, _, _ = seen[1e-8]
    torch.testing.assert_close(D, r, rtol=0, atol=1e-5)  # without noise it is the picture itself
    _, D, _, F = seen[1e6]
    torch.testing.assert_close(D, SIGMA_DATA * F, rtol=1e-4, atol=1e-5)  # in noise the network's


def test_the_network_scales_what_it_is_given_without_passing_it_through(x):
    """A constant gain makes the best estimate of white residuals of another deviation."""
    codec = build(untrained=True)
    sigma, deviation = torch.tensor([0.05], dtype=torch.float64), SIGMA_DATA / 3
    c_skip, c_out, c_in = codec.denoiser().scalings(sigma)
    wanted = deviation**2 / (deviation**2 + sigma**2)
    with torch.no_grad():
        codec.unet.conv_out.bias.chunk(2)[1].fill_(float((wanted - c_skip) / (c_out * c_in)))
    x_hat, contexts = codec.contexts(codec.compressor.simulate(x[:1], codec.compressor.points[0]))
    r = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        D = codec.denoiser()(r, sigma, terms=codec.unet.context_terms(contexts), x_hat=x_hat)
    torch.testing.assert_close(D, float(wanted) * r, rtol=1e-4, atol=1e-5)


def test_the_loss_has_the_unit_of_the_network_at_every_noise_level(x):
    """For F = 0 and residuals of sigma_data, its mean is 1 whatever sigma is."""
    codec = build(untrained=True)
    simulate = codec.compressor.simulate
    codec.compressor.simulate = lambda x, point: replace(
        simulate(x, point), x_hat=x + SIGMA_DATA / 2 * torch.randn_like(x)
    )
    x = torch.full((1, 3, 256, 256), 0.5)
    for sigma in (0.01, 0.08, 1.0):
        torch.manual_seed(1)
        loss = codec.losses(
            x, torch.randn_like(x), torch.tensor([sigma]), codec.compressor.points[0]
        )
        assert loss.item() == pytest.approx(1, rel=0.02)


def test_the_base_decodes_once_for_all_points_and_its_time_counts_for_each(base, x, monkeypatch):
    codec = build(base, steps=[1, 2], gamma=[0.0, 0.5, 1.0])
    streams = codec.compress(x)
    expected = []
    for point in codec.points[:6]:
        expected.append(codec.decompress(streams, point))
    clock = iter(range(10_000))
    monkeypatch.setattr("diffcodec.measuring._clock", lambda codec: next(clock))
    calls = []
    decode = codec.compressor.decode
    monkeypatch.setattr(
        codec.compressor, "decode", lambda *args: calls.append(args) or decode(*args)
    )
    terms = []
    context_terms = codec.unet.context_terms
    monkeypatch.setattr(codec.unet, "context_terms", lambda c: terms.append(c) or context_terms(c))
    decodings = list(decompress_at(codec, streams, codec.points[:6]))
    assert len(calls) == len(terms) == len(x)
    assert all(
        torch.equal(decoding.x_hat, x_hat)
        for decoding, x_hat in zip(decodings, expected, strict=True)
    )
    # A tick for each image's contexts, and one between the two looks at the clock around.
    assert decodings[0].seconds == (2 * len(x) + 1) / len(x)
    assert [d.seconds for d in decodings[1:]] == [(1 + len(x)) / len(x)] * 5
    assert codec._shared is None


def test_the_picture_is_a_function_of_the_stream(base, x):
    codec = build(base, gamma=0.8)
    streams = codec.compress(x)
    together = codec.decompress(streams)
    torch.manual_seed(1)
    assert torch.equal(codec.decompress(streams[::-1]), together.flip(0))
    assert torch.equal(codec.decompress(streams[1:]), together[1:])
    assert torch.equal(codec.decompress(streams, codec.points[1]), together)
    assert not torch.equal(codec.decompress(streams, codec.points[1], seed=5), together)


def test_training_sees_what_the_decoder_sees(base, x):
    codec = build(base)
    codec.fingerprint()  # builds the entropy tables
    points = list(codec.compressor.points)
    for i, point in enumerate(points):
        x_hat, contexts = codec.contexts(codec.compressor.simulate(x[i : i + 1], point))
        payload = codec.compressor.encode(x[i : i + 1], point)[0]
        decoded = codec.compressor.decode([payload], 72, 100, [0], point)
        decoded_x_hat, decoded_contexts = codec.contexts(decoded)
        torch.testing.assert_close(x_hat, decoded_x_hat, rtol=0, atol=1e-4)
        for a, b in zip(contexts, decoded_contexts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert codec.embedder.latents is None or len(contexts) == 4


def test_training_changes_the_network_alone(base, loader, tmp_path):
    codec = build(base, untrained=True, lr=1e-2, warmup_steps=1)
    before = {name: p.detach().clone() for name, p in codec.named_parameters()}
    codec.train()
    assert not codec.compressor.training
    fingerprint = codec.fingerprint()
    quiet_trainer(tmp_path, max_steps=4, gradient_clip_val=1.0).fit(codec, loader)
    changed = {name for name, p in codec.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in changed} == {"unet", "embedder"}
    still = [n for n in before if n not in changed and not n.startswith("compressor.")]
    assert not still
    assert codec.fingerprint() == fingerprint


def test_the_loss_falls_and_validation_shows_it(loader, tmp_path, monkeypatch):
    codec = build(untrained=True, lr=1e-2, warmup_steps=5)
    # A residual that is the same everywhere is soon learned.
    monkeypatch.setattr(codec.compressor, "simulate", lambda x, _: Decoded(x - SIGMA_DATA / 2))
    trainer = quiet_trainer(tmp_path, max_steps=60, gradient_clip_val=1.0)
    (before,) = trainer.validate(codec, loader, verbose=False)
    trainer.fit(codec, loader)
    (after,) = trainer.validate(codec, loader, verbose=False)
    assert after["val/loss"] < 0.8 * before["val/loss"]


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_pixels_may_be_taken_in_blocks(x, patch):
    codec = build(patch=patch, multipliers=(1, 2, 2, 2, 2), gamma=1.0)
    assert codec.unet.conv_out.out_channels == 6 * patch**2
    streams = codec.compress(x)
    assert codec.decompress(streams).shape == x.shape


def test_weights_are_the_networks_and_the_base_has_its_own(loader, x, tmp_path):
    codec = build(hyperprior(), untrained=True, lr=1e-2, gamma=1.0)
    average = EMAWeightAveraging(decay=0.5, use_buffers=False)
    trainer = quiet_trainer(tmp_path, max_steps=3, callbacks=[average], val_check_interval=1)
    trainer.fit(codec, loader, loader)
    assert {key.split(".")[0] for key in saved_state(codec)} == {"unet", "embedder"}
    fresh = diffcodec.load(str(codec.save(tmp_path / "model")))
    streams = codec.eval().compress(x)
    assert torch.equal(fresh.decompress(streams), codec.decompress(streams))


def test_bf16_and_channels_last_change_nothing_beyond_rounding(x):
    codec = build(hyperprior(), gamma=0.8)
    streams = codec.compress(x)
    expected = codec.decompress(streams)
    codec.to(memory_format=torch.channels_last)
    assert (codec.decompress(streams) - expected).abs().max() < 1e-3
    codec.decode_precision = "bf16"
    assert (codec.decompress(streams) - expected).abs().mean() < 0.02


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_sde"])
def test_the_sampler_is_the_decoders_choice(x, sampler):
    codec, other = build(gamma=0.8, steps=3), build(gamma=0.8, steps=3, sampler=sampler)
    streams = codec.compress(x)
    x_hat = other.decompress(streams)
    assert not torch.equal(x_hat, codec.decompress(streams))
    assert torch.equal(x_hat, other.decompress(streams))


def test_the_latents_can_be_left_out(x):
    codec = build(hyperprior(), latents=False)
    assert codec.embedder.latents is None
    assert codec.decompress(codec.compress(x)).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"gamma": [0, -1]}, "gamma must be at least 0"),
        ({"decode_precision": "fp8"}, r"'fp8'.*'32', 'bf16'"),
        ({"sampler": "heun"}, "unknown sampler 'heun', choose from ddim, dpmpp_2m, euler_sde"),
        ({"steps": [3, 3]}, "duplicate names"),
        ({"width": 0}, "width must be at least 1"),
        ({"patch": 3}, r"unknown patch 3, choose from \(1, 2, 4, 8\)"),
        ({"multipliers": (1, 2)}, "2 multipliers with patch=2 downsample to 1/4"),
        ({"context_channels": 0}, "context_channels must be at least 1"),
        ({"sigma_min": 2.0}, "sigma_min must be above 0 and below sigma_max=1, got 2"),
        ({"sigma_data": 0.0}, "sigma_data must be above 0"),
        ({"weights": "no.safetensors"}, "no weights at"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResidualCDC(jpeg(), **{"width": 4, **options})


def test_a_base_with_steps_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"already has settings \['gamma', 'steps'\]"):
        ResidualCDC(build(), width=4)


def test_weights_of_another_size_are_refused(tmp_path):
    folder = build().save(tmp_path)
    with pytest.raises(ValueError, match="do not fit"):
        ResidualCDC(jpeg(), width=5, weights=str(folder))


def test_neither_random_weights_nor_a_random_base_pass_unnoticed():
    cfg = compose_config(["codec=cdc_residual", "codec.weights=null", "codec.width=4"])
    codec = build_codec(cfg)
    with pytest.raises(ValueError, match=r"no trained weights.*pass codec\.weights="):
        refuse_untrained(codec, cfg)
    refuse_untrained_parts(codec, cfg)
    small = ["codec.compressor.N=12", "codec.compressor.M=144"]
    small += ["codec.compressor.groups=[4,4,8,16,112]", "codec.width=4"]
    cfg = compose_config(["codec=cdc_residual", "codec/compressor=elic", *small])
    codec = build_codec(cfg)
    with pytest.raises(ValueError, match=r"codec\.compressor\.weights=… and codec\.weights=…"):
        refuse_untrained(codec, cfg)
    with pytest.raises(ValueError, match=r"over an untrained Elic.*codec\.compressor\.weights="):
        refuse_untrained_parts(codec, cfg)


def test_padding_and_latents_lie_on_one_grid(photo):
    """y_hat is of the picture padded around: moving the window moves nothing else."""
    codec = build(hyperprior(), untrained=True)
    x = photo[..., 100:181, 60:190]  # 81x130
    decoded = codec.compressor.simulate(x, codec.compressor.points[0])
    x_hat, contexts = codec.contexts(decoded)
    assert x_hat.shape[-2:] == (128, 192)
    assert contexts[3].shape[-2:] == decoded.y_hat.shape[-2:] == (8, 12)
    whole = codec.compressor.simulate(pad_around(x, 64), codec.compressor.points[0])
    torch.testing.assert_close(whole.y_hat, decoded.y_hat)


def test_images_larger_than_the_window_have_no_seams(base, photo):
    x = photo[..., :100, :300]
    whole, tiled = build(base, steps=2), build(base, steps=2, window=128)
    stream = whole.compress(x)
    assert tiled.compress(x) == stream
    one, other = (
        whole.decompress(stream, whole.points[-1]),
        tiled.decompress(stream, tiled.points[-1]),
    )
    assert not torch.equal(one, other)
    assert (one - other).abs().mean() < 0.02
    assert seam_ratio(other, one, 128, 64) < 6
