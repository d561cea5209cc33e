import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.cli import compose_config
from experiments.sweep_overrides import check_jobs, for_each_job
from tests.warm import run_module


@pytest.mark.parametrize(
    "argument",
    [
        *("codec.quality=[30,60]", "codec.steps=5", "codec/base=elic", "+codec.a={b: 1}"),
        *("codec.weights='a b,(1)'", "seed=3", "name=x", "++codec.quality=[1,2]"),
    ],
)
def test_jobs_have_the_override_as_it_was_typed(argument):
    parse = OverridesParser.create().parse_override
    (changed,) = for_each_job([argument])
    override = parse(changed)
    assert override.is_sweep_override()
    (value,) = override.sweep_string_iterator()
    job = parse(f"{override.get_key_element()}={value}")
    assert (job.get_key_element(), job.value()) == (
        parse(argument).get_key_element(),
        parse(argument).value(),
    )


@pytest.mark.parametrize(
    "argument", ["-m", "codec=jpeg,webp", "hydra.sweep.dir=x", "~codec.base", "--config-dir", "a"]
)
def test_what_is_no_such_override_is_left(argument):
    assert for_each_job([argument]) == [argument]


@pytest.mark.parametrize(
    "arguments",
    [
        ["codec=jpeg,webp", "codec.quality=[30,60]"],
        ["codec=cdc,perco", "codec.steps=5"],
        ["codec=sdedit", "codec/base=jpeg,webp", "codec.base.quality=30,60"],
        ["codec=perco,cdc", "codec.window=null"],
        ["experiment=matched/jpeg,matched/webp", "codec.quality=50"],
    ],
)
def test_keys_of_the_swept_choices_compose(arguments):
    check_jobs(for_each_job(["-m", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["codec=cdc,perco", "codec.gamma=0"], "codec=perco: no key 'gamma' in 'codec'"),
        (["codec=jpeg,cdc", "codec.quality=5,9"], "codec=cdc: no key 'quality' in 'codec'"),
        (["codec=jpeg,wepb", "seed=1"], "codec=wepb: "),
        (["codec=jpeg", "codec.qualty=5,9"], "no key 'qualty' in 'codec'. Did you mean 'quality'"),
        (["codec=perco,jpeg", "codec/backbone=small"], "codec=jpeg: "),
    ],
)
def test_a_key_that_one_choice_lacks_names_the_choice(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        check_jobs(for_each_job(arguments))
    assert message in str(error.value)


def test_null_is_left_to_the_jobs():
    (changed,) = for_each_job(["codec.window=null"])
    override = OverridesParser.create().parse_override(changed)
    assert override.is_sweep_override()
    (value,) = override.sweep_string_iterator()
    assert compose_config(["codec=perco", f"codec.window={value}"]).codec.window is None
    assert for_each_job(["experiment=null"]) == ["experiment=null"]


def test_codecs_are_swapped_in_one_command(folder, tmp_path):
    done = run_module(
        *("experiments.run", "-m", "codec=jpeg,webp", "codec.quality=[30,60]", "logger=none"),
        *("trainer=cpu", "datamodule=folder", f"datamodule.root={folder}"),
        *("callbacks.evaluation.metrics=[psnr-rgb]", f"hydra.sweep.dir={tmp_path}"),
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in tmp_path.rglob("curve.json")) == ["0-jpeg", "1-webp"]
    assert "jpeg (anchor)" in done.stdout
