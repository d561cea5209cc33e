import copy
import math

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from callbacks.export import ExportModel
from diffcodec.coding.bitstream import derive_seed
from diffcodec.diffusion.denoiser import EDMDenoiser
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.prior_training import ConsistencyTraining, DenoiserTraining, _heun_step, _walk
from diffcodec.sdedit.small_prior import SmallPrior
from diffcodec.sdedit.small_unet import SmallUNet
from tests.trainers import quiet_trainer


def small_network(**options) -> SmallUNet:
    return SmallUNet([8, 12], 1, **options)


def denoising(**options) -> DenoiserTraining:
    return DenoiserTraining(small_network(), **options)


def distilling(teacher: str | None = None, **options) -> ConsistencyTraining:
    network = small_network(weights=teacher)
    return ConsistencyTraining(network, copy.deepcopy(network), **options)


def blocks(count, seed=0) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, scale_factor=8)


def fit(codec, steps, tmp_path, ckpt_path=None) -> Trainer:
    tmp_path.mkdir(exist_ok=True)
    data = [{"image": x, "index": i, "name": f"{i}"} for i, x in enumerate(blocks(16))]
    trainer = quiet_trainer(tmp_path, max_steps=steps, callbacks=[ExportModel()])
    trainer.fit(codec, DataLoader(data, batch_size=8), ckpt_path=ckpt_path)
    return trainer


def validated(part, images, tmp_path) -> dict[str, float]:
    data = [{"image": x, "index": i} for i, x in enumerate(images)]
    trainer = quiet_trainer(tmp_path)
    (logged,) = trainer.validate(part, DataLoader(data), verbose=False)
    return logged


def psnr(x_hat, x) -> float:
    return -10 * math.log10(float((x_hat - x).square().mean()))


def test_the_denoiser_learns_and_validation_shows_it(tmp_path):
    torch.manual_seed(0)
    part = denoising(sigmas=[0.1, 0.4], lr=5e-3, warmup_steps=5)
    x = blocks(2, seed=1)[..., :30, :25]
    before = validated(part, x, tmp_path)
    # D(x) = c_skip x at first: noise of 0.4 in [-1, 1], less what shrinking takes away.
    assert 13 < before["val/psnr@sigma=0.4"] < 18
    assert before["val/psnr@sigma=0.1"] > 20
    assert validated(part, x, tmp_path) == before  # the same noise every time
    fit(part, 60, tmp_path)
    assert validated(part, x, tmp_path)["val/psnr@sigma=0.4"] > before["val/psnr@sigma=0.4"] + 1


def test_validation_is_the_mean_over_images_of_any_size(tmp_path):
    part = denoising(sigmas=[0.2])
    images = [blocks(1)[0], blocks(1)[0][:, :17, :31]]
    single = []
    for index, x in enumerate(images):
        seed = derive_seed([f"validation {index}".encode()])
        single.append(psnr(part.denoise(x[None], 0.2, seed), x[None]))
    logged = validated(part, images, tmp_path)["val/psnr@sigma=0.2"]
    assert logged == pytest.approx(sum(single) / 2, rel=1e-5)


def test_the_loss_is_edms(tmp_path):
    part = denoising(p_mean=math.log(0.3), p_std=0.0)
    with torch.no_grad():
        part.network.conv_out.weight.normal_(std=0.1)
        x = blocks(2) * 2 - 1
        torch.manual_seed(3)
        loss = part.loss(x)
        torch.manual_seed(3)
        torch.randn(2)  # of the noise levels, which are all 0.3
        noisy = x + 0.3 * torch.randn_like(x)
        error = (part.denoiser(noisy, torch.tensor(0.3)) - x).square().mean()
    weight = (0.3**2 + 0.5**2) / (0.3 * 0.5) ** 2  # Karras et al. (2022), Table 1
    torch.testing.assert_close(loss, weight * error, rtol=1e-5, atol=0)


def test_what_they_write_the_small_prior_loads(tmp_path):
    torch.manual_seed(0)
    fit(denoising(), 2, tmp_path / "prior")
    teacher = str(tmp_path / "prior" / "model")
    codec = distilling(teacher=teacher, warmup_steps=1)
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    fit(codec, 3, tmp_path / "consistency")
    moved = {k for k, v in codec.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(k.startswith("network.") for k in moved)
    consistency = str(tmp_path / "consistency" / "model")
    prior = SmallPrior(SmallUNet(weights=teacher), SmallUNet(weights=consistency))
    for name, value in prior.consistency_network.state_dict().items():
        assert torch.equal(value, codec.state_dict()[f"network.{name}"].half().float())


def test_a_perfect_consistency_model_has_no_loss():
    # A teacher that knows one picture alone: its ODE leads there from everywhere.
    codec = distilling()
    x = blocks(1)[..., :8, :8].expand(6, -1, -1, -1) * 2 - 1

    class Known:
        """F for which D(x; sigma), or f(x, sigma), is the picture."""

        def __init__(self, denoiser):
            self.denoiser = denoiser

        def __call__(self, noisy, c_noise):
            sigma = (4 * c_noise.double()).exp()
            scale = (sigma**2 + 0.25).sqrt().reshape(-1, 1, 1, 1)
            c_skip, c_out, _ = (c.reshape(-1, 1, 1, 1) for c in self.denoiser.scalings(sigma))
            return (x[: len(noisy)] - c_skip * scale * noisy) / c_out.clamp(min=1e-9)

    denoiser = EDMDenoiser(Known(EDMDenoiser(None)))
    sigma, sigma_next = torch.full((6,), 0.5), torch.full((6,), 0.3)
    eps = torch.randn(6, 3, 8, 8)
    stepped = _heun_step(denoiser, x + 0.5 * eps, sigma, sigma_next)
    torch.testing.assert_close(stepped, x + 0.3 * eps, rtol=1e-3, atol=1e-3)
    assert codec.loss(x).isfinite()


def test_the_walk_is_what_preset_medium_does_from_each_level():
    torch.manual_seed(0)
    codec = distilling(walk_steps=3)
    denoiser = EDMDenoiser(codec.teacher)
    sigma, noisy = torch.tensor([0.02, 0.3, 0.9]), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        targets = _walk(denoiser, noisy, sigma, 3, Preset.sigma_min)
        for x, s, target in zip(noisy.split(1), sigma, targets.split(1), strict=True):
            medium = Preset(steps=3, rho=1.0).solve(denoiser, x, float(s), noise=torch.randn_like)
            torch.testing.assert_close(target, medium, rtol=1e-4, atol=1e-5)


def test_with_a_walk_the_loss_is_the_distance_from_its_end(monkeypatch):
    # f of an untrained network is c_skip x: the loss against a known end in closed form.
    codec = distilling(walk_steps=2, p_mean=math.log(0.5), p_std=0.0)
    x = torch.zeros(4, 3, 64, 64)
    monkeypatch.setattr("diffcodec.sdedit.prior_training._walk", lambda *_: torch.ones_like(x))
    c_skip, c_out, _ = codec.denoiser.scalings(torch.tensor(0.5))
    expected = (1 + (0.5 * c_skip) ** 2) / c_out**2
    torch.manual_seed(0)
    assert float(codec.loss(x).detach()) == pytest.approx(float(expected), rel=0.02)


def test_training_resumes_where_it_was(tmp_path):
    torch.manual_seed(0)
    trainer = fit(denoising(), 4, tmp_path)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    codec = denoising()
    again = fit(codec, 6, tmp_path, ckpt_path=path)
    assert again.global_step == 6
    state = torch.load(path, weights_only=True)
    assert state["global_step"] == 4
    assert state["optimizer_states"][0]["state"][0]["step"] == 4
    moved = (
        codec.state_dict()["network.conv_in.weight"] - state["state_dict"]["network.conv_in.weight"]
    )
    assert 0 < moved.abs().max() < 0.1  # it went on from there, not from new random weights


def test_the_distance_may_be_a_perceptual_one(photo):
    training = distilling(distance="perceptual", perceptual="st-alex")
    x = photo[..., :64, :64] * 2 - 1
    loss = training.loss(x)
    loss.backward()
    assert 0 < loss.item() < 10
    assert training.network.state_dict().keys() == distilling().network.state_dict().keys()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in training.network.parameters())
    with pytest.raises(ValueError, match="unknown distance 'lpips', choose from"):
        distilling(distance="lpips")


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="sigmas must be above 0"):
        denoising(sigmas=[0.1, 0])
    with pytest.raises(ValueError, match="num_levels must be at least 2"):
        distilling(num_levels=1)
    with pytest.raises(ValueError, match="walk_steps must be null or at least 2, got 1"):
        distilling(walk_steps=1)
    with pytest.raises(ValueError, match="walk_end must be above 0 and below max_sigma=1, got 1"):
        distilling(walk_end=1.0)
