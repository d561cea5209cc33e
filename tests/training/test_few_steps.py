import pytest
import torch
from torch.utils.data import DataLoader

from diffcodec.base.classical import PillowCodec
from diffcodec.cdc import CDC, ResidualCDC
from diffcodec.training.decoder_loss import DecoderLoss
from diffcodec.training.few_steps import FewStepTraining
from tests.trainers import quiet_trainer


@pytest.fixture
def codec():
    torch.manual_seed(0)
    base = PillowCodec("JPEG", quality=[10, 60])
    codec = ResidualCDC(base, width=4, steps=[1, 2], gamma=[0.0, 1.0])
    with torch.no_grad():
        codec.unet.conv_out.weight.normal_(std=0.05)
    return codec


@pytest.fixture
def loader(photo):
    crops = [photo[0, :, i : i + 64, 2 * i : 2 * i + 64] for i in range(0, 160, 20)]
    batches = [{"image": x, "index": i, "name": f"{i}"} for i, x in enumerate(crops)]
    return DataLoader(batches, batch_size=4)


def learner(codec, **options):
    loss = DecoderLoss(perceptual="st-alex", adversarial_weight=0.05, width=8)
    return FewStepTraining(codec, loss=loss, warmup_steps=1, **options)


def test_what_is_trained_is_what_is_decoded(codec, photo):
    x = photo[..., 20:92, 180:280]
    for point in codec.points:
        if point.decoding["gamma"]:
            continue  # another noise than the stream's
        codec.eval()
        decoded = codec.decompress(codec.compress(x, point), point)
        with torch.no_grad():
            resampled = codec.resample({"image": x}, point).x_hat
        torch.testing.assert_close(resampled.clamp(0, 1), decoded, rtol=0, atol=1e-5)


def test_gradients_go_through_all_steps(codec, photo):
    x = photo[..., :64, :64]
    (point,) = [p for p in codec.points[:4] if p.decoding == {"steps": 2, "gamma": 1.0}]
    codec.resample({"image": x}, point).x_hat.sum().backward()
    assert codec.unet.conv_out.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in codec.compressor.parameters())


def test_training_changes_the_decoder_and_the_discriminator_alone(codec, loader, tmp_path):
    part = learner(codec, lr=1e-3)
    assert part.product is codec
    before = {name: p.clone() for name, p in part.named_parameters()}
    quiet_trainer(tmp_path, max_steps=6, gradient_clip_val=1.0).fit(part, loader)
    changed = {n for n, p in part.named_parameters() if not torch.equal(p, before[n])}
    assert any(name.startswith("codec.unet.") for name in changed)
    assert any(name.startswith("loss.discriminator.") for name in changed)
    assert not any(name.startswith("codec.compressor.") for name in changed)


def test_the_faithful_points_learn_to_be_closer(codec, loader, photo, tmp_path):
    x = photo[..., :64, :64]
    points = [p for p in codec.points if p.decoding["gamma"] == 0]

    def error():
        with torch.no_grad():
            errors = [(codec.resample({"image": x}, p).x_hat - x).square().mean() for p in points]
        return float(sum(errors))

    before = error()
    torch.manual_seed(1)
    quiet_trainer(tmp_path, max_steps=30).fit(learner(codec, lr=3e-3), loader)
    assert error() < 0.95 * before


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_loss_that_is_logged_is_the_one_that_is_trained(codec, photo, gamma, monkeypatch):
    codec._points = tuple(p for p in codec.points if p.decoding["gamma"] == gamma)
    part = learner(codec, faithful_mse_weight=7.0)
    logged = {}
    monkeypatch.setattr(part, "log", lambda name, value, **_: logged.update({name: value}))
    loss = part.training_step({"image": photo[..., :64, :64]}, 0)
    kind = "real" if gamma else "faithful"
    assert torch.equal(logged[f"train/{kind}/loss"], loss)
    if not gamma:
        assert set(logged) == {"train/faithful/loss", "train/faithful/mse"}
        assert loss.item() == pytest.approx(7 * logged["train/faithful/mse"].item())


def test_a_codec_without_such_a_decoder_is_refused():
    with pytest.raises(ValueError, match="PillowCodec has no decoder that can be trained"):
        learner(PillowCodec("JPEG", quality=10))


def test_the_papers_design_is_trained_with_its_encoder(loader, photo, tmp_path):
    torch.manual_seed(0)
    codec = CDC(width=8, steps=2, gamma=[0.0, 1.0], lmbda=0.1)
    x = photo[..., 20:84, 180:244]
    (point, _) = codec.points
    codec.eval()
    codec.prepare_coding()
    with torch.no_grad():
        decoded = codec.decompress(codec.compress(x, point), point)
        resampled = codec.resample({"image": x}, point)
    torch.testing.assert_close(resampled.x_hat.clamp(0, 1), decoded, rtol=0, atol=1e-4)
    assert resampled.loss > 0.1 * resampled.logged["bpp"] > 0
    before = {name: p.clone() for name, p in codec.named_parameters()}
    part = learner(codec, lr=1e-3)
    quiet_trainer(tmp_path, max_steps=3, gradient_clip_val=1.0).fit(part, loader)
    changed = {n for n, p in codec.named_parameters() if not torch.equal(p, before[n])}
    for name in ("compressor.g_a", "compressor.h_s", "compressor.g_s", "unet"):
        assert any(n.startswith(name) for n in changed)
    assert "compressor.entropy_bottleneck.quantiles" in changed


def test_a_codec_with_a_denoising_weight_keeps_its_loss_at_random_timesteps(photo, monkeypatch):
    torch.manual_seed(0)
    codec = CDC(
        width=8, steps=1, gamma=1.0, lmbda=0.1, rho=0.25, perceptual="st-alex", denoising_weight=3.0
    )
    x = photo[..., 20:84, 180:244]
    part = learner(codec)
    part.setup("fit")
    logged = {}
    monkeypatch.setattr(part, "log", lambda name, value, **_: logged.update({name: value}))
    loss = part.training_step({"image": x}, 0).item()
    terms = {name.removeprefix("train/real/"): value.item() for name, value in logged.items()}
    aux_loss = codec.compressor.entropy_bottleneck.loss().item()
    denoising = 0.75 * terms["diffusion_loss"] + 0.25 * terms["lpips_loss"]
    expected = terms["loss"] + 0.1 * terms["bpp"] + aux_loss + 3 * denoising
    assert loss == pytest.approx(expected, rel=1e-5)
    assert min(terms["diffusion_loss"], terms["lpips_loss"]) > 0
    with pytest.raises(ValueError, match="denoising_weight must be at least 0, got -1"):
        CDC(width=8, denoising_weight=-1)
