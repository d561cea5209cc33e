import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.cli import CONFIG_DIR, append, appended_keys, compose_config
from experiments.constructors import argument_names


def targets(node):
    if OmegaConf.is_dict(node):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for key in node:
            yield from targets(node._get_node(key))


NAMES = sorted(
    {
        target
        for path in Path(CONFIG_DIR).glob("*/**/*.yaml")
        for target in targets(OmegaConf.load(path))
        if target.startswith(("diffcodec.", "datamodules.", "callbacks."))
    }
)


@pytest.mark.parametrize("target", NAMES)
def test_the_source_says_what_the_signature_says(target):
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(get_object(target)).parameters.values()
    assert argument_names(target) == tuple(p.name for p in parameters if p.kind not in kinds)


def test_names_of_other_packages_are_read_as_well():
    assert {"max_steps", "precision"} <= set(argument_names("lightning.pytorch.Trainer"))


@pytest.mark.parametrize("target", ["nowhere.Nothing", "diffcodec.perco.Nothing", "diffcodec", ""])
def test_what_cannot_be_found_has_no_arguments(target):
    assert argument_names(target) == ()


def test_an_argument_that_no_yaml_lists_can_be_overridden():
    overrides = ["codec=mbt2018_mean_vbr", "codec.lr=2e-4", "codec.level=[1]", "seed=3"]
    cfg = compose_config(overrides)
    added = append(overrides, appended_keys(cfg))
    assert added == ["codec=mbt2018_mean_vbr", "++codec.lr=2e-4", "++codec.level=[1]", "seed=3"]
    assert cfg == compose_config(added)
    assert cfg.codec.lr == 2e-4


def test_arguments_of_nested_parts_can_be_overridden():
    cfg = compose_config(["codec=sdedit", "codec.base.lr=1", "codec.prior.denoiser.layers=3"])
    assert (cfg.codec.base.lr, cfg.codec.prior.denoiser.layers) == (1, 3)


def test_a_wrong_name_lists_the_arguments():
    with pytest.raises(ValueError, match=r"no key 'lrr' in 'codec'. Did you mean 'lr'\?") as error:
        compose_config(["codec=elic", "codec.lrr=1"])
    assert "Choose from M, N, _target_, aux_lr, groups, lmbda, lr, variant" in str(error.value)
