"""IVC: from pure noise, held to the base's picture."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffcodec.diffusion.denoiser import Denoiser, LearnedVarianceDenoiser
from diffcodec.diffusion.guidance import dps
from diffcodec.diffusion.schedule import (
    TimeTable,
    linear_alphas_cumprod,
    respaced_timesteps,
    sigmas_of,
)
from diffcodec.sdedit import SDEdit
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.prior import Prior
from diffcodec.sdedit.strength import PER_IMAGE
from diffcodec.weights.configuration import config_of
from experiments.build import build_codec
from experiments.cli import compose_config

IVC = {"solver": "ddpm", "steps": 6, "zeta": 3.0, "target": "decoded", "start": "noise"}
REFERENCE = json.loads((Path(__file__).parent / "ivc_reference.json").read_text())


class FlatPrior(Prior):
    """The best denoiser of images whose pixels are Gaussian around grey: x / (1 + sigma^2)."""

    def build_denoiser(self) -> Denoiser:
        def denoise(x: Tensor, sigma: Tensor, **_: object) -> Tensor:
            self.seen.append(float(sigma))
            return x / (1 + sigma**2)

        return denoise

    build_ddpm = build_denoiser

    def ddpm_sigmas(self, steps: int) -> Tensor:
        levels = sigmas_of(linear_alphas_cumprod(1000))[respaced_timesteps(1000, steps)]
        return torch.cat([levels.flip(0), levels.new_zeros(1)])

    def build_consistency(self) -> Denoiser:
        raise ValueError("there is none")

    def unets(self) -> list[nn.Module]:
        return []

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []


@pytest.fixture
def ivc(hyperprior):
    def build(**options) -> SDEdit:
        preset = {"ivc": Preset(**(IVC | options.pop("preset", {})))}
        return SDEdit(hyperprior(), FlatPrior(), preset, show_base=False, **options).eval()

    return build


def drawn(index: int) -> Tensor:
    """Noise of a rule, of which the reference was computed."""
    i = torch.arange(48, dtype=torch.float64).reshape(1, 3, 4, 4)
    return math.sqrt(2) * torch.sin(12.9898 * (i + 1) * (index + 1) + 78.233)


def network(x_t: Tensor, time: Tensor) -> Tensor:
    """A prediction of the noise, and of the variance."""
    t = (time / 1000).to(x_t)
    return torch.cat([0.9 * x_t + 0.1 * torch.sin(3 * x_t + t), torch.cos(5 * x_t - t)], 1)


def recode(x: Tensor) -> Tensor:
    return torch.tanh(nn.functional.avg_pool2d(x, 2) + 0.2)


@pytest.mark.parametrize("steps", [10, 80])
def test_the_sampler_is_the_authors(steps):
    sigmas = sigmas_of(linear_alphas_cumprod(1000))
    denoiser = LearnedVarianceDenoiser(
        network, prediction="eps", time_of=TimeTable(sigmas, torch.arange(1000)), clip=True
    )
    levels = sigmas[respaced_timesteps(1000, steps)].flip(0)
    draws = iter(range(1, steps))
    distances = []

    def distance(x0: Tensor) -> Tensor:
        distances.append((recode(0.5 * drawn(7)) - recode(x0)).norm())
        return distances[-1]

    x = dps(
        denoiser,
        drawn(0) * (1 + levels[0] ** 2).sqrt(),
        torch.cat([levels, levels.new_zeros(1)]),
        distance=distance,
        zeta=0.6,
        noise=lambda _: drawn(next(draws)),
        of_vp=True,
    )
    expected = REFERENCE[str(steps)]
    torch.testing.assert_close(
        x.flatten(), torch.tensor(expected["sample"]).double(), atol=2e-5, rtol=0
    )
    assert float(distances[-1].detach()) == pytest.approx(expected["distance"], abs=2e-5)


def test_timesteps_are_spaced_as_the_authors():
    for steps, timesteps in REFERENCE["timesteps"].items():
        assert respaced_timesteps(1000, int(steps)).tolist() == timesteps
    assert respaced_timesteps(1000, 1000).tolist() == list(range(1000))
    with pytest.raises(ValueError, match="must be in 1 to 1000, got 1001"):
        respaced_timesteps(1000, 1001)


def test_it_starts_from_pure_noise_and_needs_no_strength(ivc, x):
    codec = ivc()
    streams = codec.compress(x[:1, :, :64, :64])
    x_hat = codec.decompress(streams)
    assert x_hat.shape == x[:1, :, :64, :64].shape
    assert codec.prior.seen[0] == pytest.approx(157.4, rel=1e-3)
    assert len(codec.prior.seen) == 6
    assert codec.point_facts(codec.points[0]) == {"strength": 80}
    assert torch.equal(x_hat, codec.decompress(streams))


def test_the_constraint_pulls_it_to_the_bases_picture(ivc, x):
    codec, free = ivc(), ivc(preset={"zeta": 1e-6})
    base = codec.base.decompress(codec.base.compress(x[:1, :, :64, :64]))
    streams = codec.compress(x[:1, :, :64, :64])
    errors = [(c.decompress(streams) - base).square().mean() for c in (codec, free)]
    assert errors[0] < 0.95 * errors[1]


def test_the_target_is_the_bases_picture_of_the_image(ivc, x):
    codec = ivc()
    x_hat = codec.base.decompress(codec.base.compress(x[:1, :, :64, :64]))
    recoded = codec.base.reconstruct(x_hat, codec.base.points[0]).detach()
    preset = codec._presets["ivc"]
    at = codec.prior.encode(x[:1, :, :64, :64])
    again = codec.base.reconstruct(x[:1, :, :64, :64], codec.base.points[0]).detach()
    for target, expected in (("decoded", x_hat), ("recoded", recoded)):
        distance = codec._distance(x_hat, replace(preset, target=target), codec.base.points[0])(at)
        torch.testing.assert_close(distance, 2 * (expected - again).norm())
    assert (x_hat - recoded).norm() > 0.1


def test_a_restart_takes_larger_steps_and_the_last_sample_is_kept(ivc, x, monkeypatch):
    streams = ivc().compress(x[:1, :, :64, :64])
    steps = []
    solve = Preset.solve

    def recorded(preset, **options):
        steps.append(preset.zeta)
        samples.append(solve(preset, **options))
        return samples[-1]

    monkeypatch.setattr(Preset, "solve", recorded)
    samples: list[Tensor] = []
    never = ivc(preset={"restart_above": 1e-6, "max_restarts": 3})
    found = never.decompress(streams)
    assert steps == [3.0, 4.5, 6.75]
    torch.testing.assert_close(found, never.prior.decode(samples[-1]).clamp(0, 1))
    assert not torch.equal(samples[0], samples[-1])
    samples.clear()
    steps.clear()
    easy = ivc(preset={"restart_above": 1e9, "max_restarts": 3})
    assert torch.equal(easy.decompress(streams), ivc().decompress(streams))
    assert steps == [3.0, 3.0]


def test_priors_and_strengths_that_do_not_fit_are_refused(hyperprior):
    with pytest.raises(ValueError, match="preset ivc starts from pure noise, above the prior's"):
        SDEdit(hyperprior(), small(), {"ivc": Preset(**IVC)})
    with pytest.raises(ValueError, match="preset ivc has no strength"):
        SDEdit(hyperprior(), FlatPrior(), {"ivc": Preset(**IVC)}, strength=PER_IMAGE)


def small():
    prior = FlatPrior()
    prior.max_sigma = 1.0
    return prior


@pytest.mark.parametrize("strength", [1.5, [0.1, 1.5], {"medium": {"quality=10": 1.5}}])
def test_a_strength_above_what_the_prior_knows_is_refused(make_codec, strength):
    with pytest.raises(
        ValueError, match=r"strength 1\.5 is above the prior's highest noise level 1"
    ):
        make_codec("medium", strength=strength)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "middle"}, "unknown start 'middle', choose from picture, noise"),
        (
            {"restart_above": 20.0, "zeta": 0.0, "solver": "euler_sde"},
            "restart_above needs a constraint",
        ),
        ({"max_restarts": 0}, "max_restarts must be at least 1"),
        ({"target": "image"}, "unknown target 'image', choose from recoded, decoded"),
        ({"zeta": 0.0}, "solver=ddpm needs zeta above 0 and start=noise"),
        ({"start": "picture"}, "solver=ddpm needs zeta above 0 and start=noise"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Preset(**(IVC | options))


def test_the_reference_is_no_part_of_what_is_saved(make_codec, hyperprior):
    codec = make_codec("medium", reference=hyperprior())
    assert config_of(codec)["reference"] is None
    assert not [name for name in codec.state_dict() if "reference" in name]


def test_what_ships_is_not_used_with_a_reference(hyperprior):
    codec = build_codec(compose_config(["codec=sdedit", "codec/preset=medium"]))
    assert codec._known_sigma(codec.points[0]) is not None
    reference = "+codec/base@codec.reference=jpeg"
    codec = build_codec(compose_config(["codec=sdedit", "codec/preset=medium", reference]))
    assert codec._known_sigma(codec.points[0]) is None
    assert "reference" in codec._made_for()


def test_the_preset_is_the_authors_settings():
    preset = compose_config(["codec=sdedit", "codec/preset=ivc"]).codec.preset.ivc
    assert (preset.solver, preset.steps, preset.start) == ("ddpm", 1000, "noise")
    assert (preset.zeta, preset.target) == (0.6, "decoded")
    assert (preset.restart_above, preset.max_restarts) == (20, 1)
    slow = compose_config(["codec=sdedit", "codec/preset=slow"]).codec.preset.slow
    assert Preset(**{k: v for k, v in slow.items() if k != "_target_"}).target == "recoded"
