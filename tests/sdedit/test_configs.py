from pathlib import Path

import pytest
from hydra.errors import InstantiationException

from diffcodec.codec import Codec
from experiments.build import build_codec, build_coder, is_untrained
from experiments.cli import CONFIG_DIR, compose_config

CODECS = {p.stem for p in (Path(CONFIG_DIR) / "codec").glob("*.yaml")}
BASES = CODECS - {"sdedit", "cdc_residual"}  # these are built over another codec
TINY = (
    *(
        "codec=sdedit",
        "codec.prior.denoiser.channels=[8]",
        "codec.prior.denoiser.layers=1",
        "codec.strength=0.1",
    ),
    *("codec.prior.denoiser.weights=null", "codec.prior.consistency.weights=null"),
)


def build(*overrides: str) -> Codec:
    return build_codec(compose_config([*TINY, *overrides]))


@pytest.mark.parametrize("name", sorted(BASES))
def test_a_base_is_configured_as_the_codec_is(name):
    base = dict(compose_config(["codec=sdedit", f"codec/base={name}"]).codec.base)
    own = dict(compose_config([f"codec={name}"]).codec)
    if name == "mbt2018_mean_vbr":
        assert base.pop("level") == [0, 2, 4, 6]
        assert "level" not in own
    if own.get("architecture"):
        # A base is not trained here: those of CompressAI's zoo are its pretrained networks.
        assert base.pop("weights") == "zoo"
        assert base.pop("size") == "paper"
        assert base.pop("quality") == [1, 2, 3, 4, 5, 6]
        assert own.pop("weights") is None
        del own["size"]
    assert base == own


def test_presets_are_chosen_by_name_and_set_by_key():
    default = build("codec/base=jpeg", "codec.base.quality=[50]")
    assert tuple(p.name for p in default.points) == (
        "fast,quality=50",
        "medium,quality=50",
        "base,quality=50",
    )
    other = build("codec/base=webp", "codec/preset=medium", "codec.preset.medium.steps=30")
    assert other._presets["medium"].method == "euler_sde"


def test_slow_is_for_codecs_that_gradients_flow_through():
    build("codec/preset=slow")
    small = ["codec.base.N=12", "codec.base.M=144", "codec.base.groups=[4,4,8,16,112]"]
    assert build("codec/base=elic", "codec/preset=slow", *small).base.differentiable
    with pytest.raises(InstantiationException) as error:
        build("codec/base=jpeg", "codec/preset=slow")
    assert "differentiable base codec" in str(error.value.__cause__)


def test_a_base_without_weights_is_noticed():
    small = ["codec/base=mbt2018_mean", "codec.base.size=[8,8]", "codec.base.weights=null"]
    small += ["codec.base.quality=3"]
    cfg = compose_config([*TINY, *small])
    assert is_untrained(build_codec(cfg), cfg)
    with pytest.raises(ValueError, match="has no trained weights"):
        build_coder(cfg)
    cfg = compose_config([*TINY])
    assert not is_untrained(build_codec(cfg), cfg)


def test_calibration_images_are_the_datamodules():
    photos = compose_config(["codec=sdedit"])
    assert [source.split for source in photos.codec.calibration.sources] == ["calibration"]
    cfg = compose_config(["codec=sdedit", "datamodule=imagenet", "datamodule.root=DIR"])
    (source,) = cfg.codec.calibration.sources
    # After those that are tested.
    assert (source.path, source.skip) == (cfg.datamodule.test.path, cfg.datamodule.test.limit)
    assert cfg.codec.calibration.root == "DIR"


def test_the_hub_prior_is_the_papers():
    prior = {
        name: compose_config(["codec=sdedit", f"codec/prior={name}"]).codec.prior for name in PRIORS
    }
    assert prior["hub"].source == "edm_bedroom256_ema.pt"
    assert prior["ddpm"].source.startswith("hf://google/ddpm-ema-bedroom-256@")
    assert prior["ddpm"].consistency == prior["hub"].consistency
    assert prior["imagenet"].architecture == "adm256"
    assert prior["imagenet"].consistency is None


PRIORS = ("hub", "ddpm", "imagenet")
