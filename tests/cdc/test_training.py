import builtins

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

from diffcodec.cdc.compressor import MIN_SCALE
from diffcodec.cdc.rate_warmup import floored_decay, warmed_up
from tests.cdc.tiny import build
from tests.trainers import quiet_trainer


@pytest.fixture
def loader() -> DataLoader:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4), size=64, mode="bilinear")
    return DataLoader([{"image": image} for image in smooth], batch_size=4)


def trainer(tmp_path, **options) -> Trainer:
    return quiet_trainer(tmp_path, **{"max_steps": 4, "gradient_clip_val": 1.0, **options})


@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_a_few_steps_move_every_parameter(prediction, loader, tmp_path):
    codec = build(prediction, lr=1e-3, aux_lr=1e-2, lmbda=0.1)
    before = {name: p.detach().clone() for name, p in codec.named_parameters()}
    trainer(tmp_path).fit(codec, loader)
    still = [name for name, p in codec.named_parameters() if torch.equal(p, before[name])]
    assert not still
    assert all(p.isfinite().all() for p in codec.parameters())


def test_the_loss_falls(loader, tmp_path):
    codec = build(lr=3e-3, lmbda=0.0)
    batch = next(iter(loader))

    def loss() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            losses = [codec.rate_distortion(batch["image"]) for _ in range(8)]
        return sum(out["diffusion_loss"].item() for out in losses)

    start = loss()
    trainer(tmp_path, max_steps=40).fit(codec, loader)
    assert loss() < 0.5 * start


def test_weight_averaging_and_coding_live_together(loader, tmp_path):
    codec = build(lr=1e-2)
    x = torch.rand(1, 3, 64, 64)
    codec.compress(x)  # entropy tables of the weights before training
    average = EMAWeightAveraging(decay=0.9)
    trainer(tmp_path, callbacks=[average]).fit(codec, loader)
    codec.eval()
    streams = codec.compress(x)
    fresh = build()
    fresh.load_state_dict(codec.state_dict())
    assert fresh.compress(x) == streams


def test_bf16_training_keeps_the_rate_in_float32(loader, tmp_path):
    codec = build()
    with torch.autocast("cpu", torch.bfloat16):
        out = codec.rate_distortion(next(iter(loader))["image"])
    assert out["bpp_loss"].dtype == torch.float32


def test_lambda_warms_up():
    options = {"warmup_lmbda": 1e-5, "warmup_steps": 10}
    assert warmed_up(0.1, 9, **options) == 1e-5
    assert warmed_up(0.1, 10, **options) == 0.1
    ramp = [warmed_up(0.1, step, **options, ramp_steps=4) for step in range(9, 15)]
    assert ramp == pytest.approx([1e-5, 1e-5, 1e-4, 1e-3, 1e-2, 0.1])


def test_the_learning_rate_decays_to_its_floor():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
    scheduler = floored_decay(optimizer, every=2, factor=0.8, floor=0.4)
    rates = []
    for _ in range(14):
        rates.append(optimizer.param_groups[0]["lr"] / 5e-5)
        optimizer.step()
        scheduler.step()
    assert rates[:6] == pytest.approx([1, 1, 0.8, 0.8, 0.64, 0.64])
    assert rates[-1] == pytest.approx(0.4)


def test_initial_gain_widens_the_latents():
    x = torch.rand(1, 3, 64, 64)
    y = [build(initial_gain=gain).compressor.g_a(x) for gain in (1.0, 10.0)]
    assert (y[1].std() / y[0].std()).item() == pytest.approx(10, rel=0.2)


def test_lpips_is_neither_saved_nor_part_of_the_codec(monkeypatch, loader, tmp_path):
    class Stub:
        def __init__(self, *_, **__):
            pass

        def __call__(self, x_hat, x):
            return (x_hat - x).abs().mean()

    monkeypatch.setattr("diffcodec.cdc.codec.PerceptualLoss", Stub)
    codec, plain = build(rho=0.5), build()
    trainer(tmp_path, max_steps=0).fit(codec, loader)
    assert codec.state_dict().keys() == plain.state_dict().keys()
    assert codec.eval().fingerprint() == plain.fingerprint()
    assert "lpips_loss" in codec.rate_distortion(torch.rand(1, 3, 64, 64))
    assert "lpips_loss" not in plain.rate_distortion(torch.rand(1, 3, 64, 64))


def test_missing_lpips_weights_stop_before_training(monkeypatch, loader, tmp_path):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "lpips":
            raise OSError("no route to host")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"rho > 0 needs .*'vgg': .*no route"):
        trainer(tmp_path).fit(build(rho=0.9, perceptual="vgg"), loader)
    codec = build(rho=0.9)
    trainer(tmp_path, max_steps=1).fit(codec, loader)
    assert codec._perceptual.name == "st-vgg"
    with pytest.raises(ValueError, match="unknown perceptual loss 'lpips'"):
        build(rho=0.9, perceptual="lpips")


def test_contexts_are_taught_to_be_the_image_where_that_has_a_weight(loader):
    batch = next(iter(loader))
    assert "context_loss" not in build().train().rate_distortion(batch["image"])
    codec = build(context_weight=1.0).train()
    out = codec.rate_distortion(batch["image"])
    out["context_loss"].backward()
    assert codec.compressor.g_a[0].res.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in codec.unet.parameters())


def test_the_first_steps_may_leave_the_unet_out(loader, tmp_path):
    codec = build(context_weight=1.0, context_steps=2, lr=1e-3)
    before = {k: v.clone() for k, v in codec.named_parameters()}
    trainer(tmp_path, max_steps=2).fit(codec, loader)
    assert all(torch.equal(v, before[k]) for k, v in codec.named_parameters() if "unet" in k)
    assert not torch.equal(
        codec.compressor.g_a[0].res.conv1.weight, before["compressor.g_a.0.res.conv1.weight"]
    )
    trainer(tmp_path, max_steps=3).fit(codec, loader)
    assert not torch.equal(codec.unet.conv_out.weight, before["unet.conv_out.weight"])


def test_symbols_outside_the_tables_are_counted(loader):
    codec = build()
    logged = {}
    codec.log = lambda name, value, **_: logged.update({name: float(value.detach())})
    codec.log_dict = lambda *_, **__: None
    batch = next(iter(loader))
    with torch.no_grad():
        codec.compressor.h_s[-1].weight.zero_()
        codec.compressor.h_s[-1].bias.fill_(MIN_SCALE)
        for gain, low, high in ((1.0, 0.05, 0.8), (1e4, 0.9, 1.0)):
            codec.compressor.widen(gain)
            codec.training_step(batch, 0)
            latents = codec.compressor(batch["image"] * 2 - 1)
            assert logged["train/y_max"] == latents.y_hat.abs().max()
            # At the smallest scale of 0.1 the table ends at one, beyond 6.1 standard deviations.
            share = ((latents.y_hat - latents.means).round().abs() > 1).float().mean()
            assert logged["train/y_escaped"] == pytest.approx(float(share))
            assert low < share <= high
