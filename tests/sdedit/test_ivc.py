"""IVC: the constraint of the slow preset, from pure noise."""

import pytest
import torch
from torch import Tensor, nn

from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.sdedit import SDEdit
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.prior import Prior
from diffcodec.sdedit.strength import PER_IMAGE
from diffcodec.weights.configuration import config_of
from experiments.build import build_codec
from experiments.cli import compose_config

IVC = {"solver": "euler_sde", "steps": 6, "sigma_min": 0.01, "zeta": 3.0, "start": "noise"}


class FlatPrior(Prior):
    """The best denoiser of images whose pixels are Gaussian around grey: x / (1 + sigma^2)."""

    def build_denoiser(self) -> Denoiser:
        def denoise(x: Tensor, sigma: Tensor, **_: object) -> Tensor:
            self.seen.append(float(sigma))
            return x / (1 + sigma**2)

        return denoise

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


def test_it_starts_from_pure_noise_and_needs_no_strength(ivc, x):
    codec = ivc()
    streams = codec.compress(x[:1, :, :64, :64])
    x_hat = codec.decompress(streams)
    assert x_hat.shape == x[:1, :, :64, :64].shape
    assert codec.prior.seen[0] == pytest.approx(80)
    assert codec.point_facts(codec.points[0]) == {"strength": 80}
    assert torch.equal(x_hat, codec.decompress(streams))


def test_the_constraint_pulls_it_to_the_bases_picture(ivc, x):
    codec, free = ivc(), ivc(preset={"zeta": 0.0})
    base = codec.base.decompress(codec.base.compress(x[:1, :, :64, :64]))
    streams = codec.compress(x[:1, :, :64, :64])
    errors = [(c.decompress(streams) - base).square().mean() for c in (codec, free)]
    assert errors[0] < 0.9 * errors[1]


def test_it_samples_again_until_it_is_near_and_keeps_the_best(ivc, x):
    streams = ivc().compress(x[:1, :, :64, :64])
    once, never = ivc(), ivc(preset={"restart_above": 1e-6, "max_restarts": 3})
    first = once.decompress(streams)
    best = never.decompress(streams)
    assert len(never.prior.seen) == 3 * len(once.prior.seen)
    target = once.base.reconstruct(once.base.decompress(streams), once.base.points[0]).detach()
    distances = [
        float((target - once.base.reconstruct(picture, once.base.points[0])).norm())
        for picture in (first, best)
    ]
    assert distances[1] <= distances[0] * 1.01  # of clamped pictures, by which none was chosen
    easy = ivc(preset={"restart_above": 1e9, "max_restarts": 3})
    assert torch.equal(easy.decompress(streams), first)
    assert len(easy.prior.seen) == len(once.prior.seen)


def test_priors_and_strengths_that_do_not_fit_are_refused(hyperprior):
    with pytest.raises(ValueError, match="preset ivc starts from pure noise, but the prior knows"):
        SDEdit(hyperprior(), small(), {"ivc": Preset(**IVC)})
    with pytest.raises(ValueError, match="preset ivc has no strength"):
        SDEdit(hyperprior(), FlatPrior(), {"ivc": Preset(**IVC)}, strength=PER_IMAGE)


def small():
    prior = FlatPrior()
    prior.max_sigma = 1.0
    return prior


@pytest.mark.parametrize("strength", [1.5, [0.1, 1.5], {"medium": {"quality=10": 1.5}}])
def test_a_strength_above_what_the_prior_knows_is_refused(make_codec, strength):
    with pytest.raises(ValueError, match=r"strength 1\.5 is above the highest noise level .*, 1"):
        make_codec("medium", strength=strength)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "middle"}, "unknown start 'middle', choose from picture, noise"),
        ({"restart_above": 20.0, "zeta": 0.0}, "restart_above is of a constraint"),
        ({"max_restarts": 0}, "max_restarts must be at least 1"),
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


def test_the_preset_is_one_override():
    preset = compose_config(["codec=sdedit", "codec/preset=ivc"]).codec.preset.ivc
    assert (preset.start, preset.zeta, preset.restart_above) == ("noise", 0.6, None)
