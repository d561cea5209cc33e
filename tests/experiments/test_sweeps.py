"""W&B sweeps: valid files, command lines that compose, and one that really runs."""

import json
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from sweeps.config.schema import validator
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.sdk.lib.config_util import save_config_file_from_dict

from experiments.agent import split_evaluations, translate
from experiments.cli import CONFIG_DIR, compose_config
from tests.wandb_file import read_records
from tests.warm import run_module

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((Path(CONFIG_DIR) / "sweep").glob("*.yaml"))
VARIABLES = {
    **{"DATA_ROOT": "/data", "CDC_WEIGHTS": "weights.pt", "CDC_WIDTH": "8"},
    **{"CDC_FOLDER": "/networks", "COCO_ROOT": "/coco"},
}
# Networks that fit a test, of codecs that are built at once.
SMALL = {
    "matched_rates": [],
    "cdc_lambda_rho": ["codec.width=8"],
    "cdc_steps_gamma": ["codec.weights=null"],
    "cdc_residual_base_gamma": ["codec.weights=null", "codec/compressor=jpeg"],
}


@pytest.fixture(params=SWEEPS, ids=lambda path: path.stem)
def sweep(request):
    return request.param


def read(path):
    config = yaml.safe_load(path.read_text())
    if (
        "codec=sdedit" in config["command"]
        and not (Path(CONFIG_DIR) / "codec" / "sdedit.yaml").is_file()
    ):
        pytest.skip("there is no codec=sdedit")
    return config


def agent_arguments(config, monkeypatch):
    """What `wandb agent` would run after `python -m experiments.agent`, for every point."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    names = list(config["parameters"])
    for values in product(*(config["parameters"][name]["values"] for name in names)):
        args = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        macros = create_sweep_command_args({"args": args})
        command = []
        for chunk in create_sweep_command(list(config["command"])):
            is_macro = chunk.startswith("${") and chunk.endswith("}")
            command += macros.get(chunk[2:-1], []) if is_macro else [chunk]
        assert command[:3] == ["python", "-m", "experiments.agent"]
        yield command[3:]


def test_it_is_valid(sweep):
    config = yaml.safe_load(sweep.read_text())
    problems = [error.message for error in validator.iter_errors(config)]
    assert not problems
    assert config["method"] == "grid"


def test_every_command_line_composes(sweep, monkeypatch):
    config = read(sweep)
    settings = set()
    commands = []
    for arguments in agent_arguments(config, monkeypatch):
        own, evaluations = split_evaluations(translate([*arguments, "hydra.run.dir=out"], {}))
        commands.append(own)
        for evaluation in evaluations:
            cfg = compose_config(evaluation)
            assert not cfg.fit
            assert cfg.codec.weights == "out/model"
            assert cfg.datamodule.name in ("kodak", "coco2017", "coco30k_512")
    for arguments in commands:
        cfg = compose_config(arguments)
        assert cfg.logger.group
        settings.add(str(cfg.codec))
    assert len(settings) == len(commands)  # no parameter is without effect
    if sweep.stem in SMALL:
        for arguments in (commands[0], commands[-1]):
            codec = instantiate(compose_config([*arguments, *SMALL[sweep.stem]]).codec)
            assert codec.points


def test_a_parameter_s_dots_stand_for_a_group_where_it_has_that_choice():
    assert translate(["codec.backbone=sd21", "codec.backbone=none", "codec.N=small"], {}) == [
        *("codec/backbone=sd21", "codec.backbone=none", "codec.N=small"),
    ]
    environment = {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "r"}
    assert translate([], environment) == ["hydra.run.dir=outputs/sweep/s/r"]
    assert translate(["hydra.run.dir=x"], environment) == ["hydra.run.dir=x"]


def test_what_is_evaluated_after_a_training():
    arguments = ["experiment=perco/small", "codec.rate=[8x8/256]", "datamodule.root=/data"]
    evaluate = ["evaluate=datamodule=kodak point=8x8/256", "evaluate=datamodule=folder name='a b'"]
    training, runs = split_evaluations([*arguments, *evaluate, "hydra.run.dir=out", "name=perco"])
    assert training == [*arguments, "hydra.run.dir=out", "name=perco"]
    carried, weights = ["codec.rate=[8x8/256]", "name=perco"], ["fit=false"]
    weights += ["codec.weights=out/model"]
    assert runs == [
        [*carried, "datamodule=kodak", "point=8x8/256", *weights, "hydra.run.dir=out/kodak"],
        [*carried, "datamodule=folder", "name=a b", *weights, "hydra.run.dir=out/folder"],
    ]
    with pytest.raises(ValueError, match=r"pass hydra\.run\.dir=FOLDER"):
        split_evaluations(evaluate)
    with pytest.raises(ValueError, match="share a folder"):
        split_evaluations(["hydra.run.dir=out", evaluate[0], evaluate[0]])


def test_a_sweep_of_two_points_runs_end_to_end(folder, tmp_path, monkeypatch):
    config = yaml.safe_load((Path(CONFIG_DIR) / "sweep" / "matched_rates.yaml").read_text())
    commands = list(agent_arguments(config, monkeypatch))[:2]
    for number, arguments in enumerate(commands):
        environment = {
            "WANDB_SWEEP_ID": "sweep1",
            "WANDB_RUN_ID": f"run{number}",
            "WANDB_MODE": "offline",
        }
        own = ["datamodule=folder", f"datamodule.root={folder}", "trainer=cpu"]
        own += ["callbacks.evaluation.metrics=[psnr-rgb]"]
        done = run_module("experiments.agent", *arguments, *own, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    runs = {}
    for path in tmp_path.glob("outputs/sweep/sweep1/*/wandb/offline-run-*/run-*.wandb"):
        for record in read_records(path):
            if record.HasField("run"):
                runs[record.run.run_id] = record.run
        uploaded = path.parent / "files" / "curve.json"
        assert len(json.loads(uploaded.read_text())["results"]["bpp"]) == 5
    assert sorted(runs) == ["run0", "run1"]
    assert runs["run0"].run_group == runs["run1"].run_group == "matched_rates"
    assert [runs[name].job_type for name in ("run0", "run1")] == ["jpeg", "webp"]
    assert list(runs["run0"].tags) == ["jpeg", "folder", "quality=6…56"]


VALUES = {
    **{"codec.caption": None, "codec.compile": True, "codec.steps": [1, 20], "codec.guidance": 3.5},
    **{"codec.captioner.text": "30", "logger.group": "a, b", "name": "true"},
    **{"codec.guided": ["text, more", None, False], "codec.rate": "[32x32/256]", "seed": 7},
    **{"point": "None", "callbacks.evaluation.weights": {"lpips": None, "inception": "a b"}},
}


@pytest.mark.parametrize("with_file", [True, False])
def test_values_keep_their_types(tmp_path, with_file):
    parameters = {name: {"value": value} for name, value in VALUES.items()}
    environment = {}
    if with_file:  # as `wandb agent` does
        path = tmp_path / "config-run.yaml"
        save_config_file_from_dict(str(path), parameters)
        environment = {"WANDB_SWEEP_PARAM_PATH": str(path)}
    arguments = create_sweep_command_args({"args": parameters})["args_no_hyphens"]
    translated = translate(arguments, environment)
    assert translate(translated, environment) == translated  # Lightning starts the agent again
    parse = OverridesParser.create().parse_override
    found = {override.key_or_group: override.value() for override in map(parse, translated)}
    expected = {**VALUES, "codec.rate": ["32x32/256"]}
    if not with_file:  # the command line does not tell these from others
        expected |= {"codec.captioner.text": 30, "name": True, "point": None}
    for name, value in expected.items():
        got = found[name]
        assert (str(got) if isinstance(value, str) else got) == value, name
