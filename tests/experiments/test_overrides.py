import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.agent import split_evaluations
from experiments.cli import compose_config
from experiments.file_commands import read_codec_file, write_codec_file
from experiments.overrides import is_override, quote_paths, quoted, run_folder, split_paths

ODD = ["a b", "(1)", "a,b", "it's", "[x]", "k=v", "{a}", 'say "x"', "back\\slash", "ünï", "$HOME"]


@pytest.mark.parametrize("text", [*ODD, "None", "true", "1e3", "x\\", "'", "a,b c=[d]'e' (f)"])
def test_quoted_text_is_the_text(text):
    parsed = OverridesParser.create().parse_override(f"codec.weights={quoted(text)}").value()
    assert str(parsed) == text
    assert compose_config(["codec=cdc", f"codec.weights={quoted(text)}"]).codec.weights == text


def test_interpolations_in_paths_stay_text():
    name = f"codec.weights={quoted('a${name}b')}"
    assert compose_config(["codec=cdc", name]).codec.weights == "a${name}b"


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("typed", ["raw", "quoted"])
def test_streams_are_decoded_wherever_their_weights_lie(tmp_path, monkeypatch, name, typed):
    (tmp_path / name).mkdir()
    (tmp_path / name / "w.pt").touch()
    monkeypatch.chdir(tmp_path)
    value = f"{name}/w.pt"
    override = f"codec.weights={value if typed == 'raw' else quoted(value)}"
    assert compose_config(["codec=cdc", override]).codec.weights == value
    path = write_codec_file(tmp_path, ["codec=cdc", override])
    monkeypatch.chdir("/")
    assert compose_config(read_codec_file(path)).codec.weights == str(tmp_path / value)


def test_every_path_becomes_absolute_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = ("strengths.json", "w.pt", "cdc", "ddim", "a dog", "vgg.pth", "prior", "p.safetensors")
    for name in there:
        Path(name).touch()
    digest = "0" * 64
    overrides = [
        *("codec=sdedit", "codec.strength=strengths.json", "codec.prior.source=prior"),
        *("codec.vgg_weights=./vgg.pth", f"codec.prior.weights=w.pt#sha256={digest}"),
        *("++codec.reference.weights=w.pt", "codec.sources=[./w.pt,x,3]", "codec.path=~nobody/x"),
        *("codec.base.weights=cdc", "codec.sampler=ddim", "codec.caption='a dog'", "codec=cdc"),
        *("codec.weights=null", "codec.steps=[1,2]", "codec/base=cdc"),
    ]
    written = yaml.safe_load(write_codec_file(tmp_path, overrides).read_text())["overrides"]
    assert written == [
        *("codec=sdedit", f"codec.strength={tmp_path}/strengths.json"),
        f"codec.prior.source={tmp_path}/prior",
        f"codec.vgg_weights={tmp_path}/vgg.pth",
        f"codec.prior.weights='{tmp_path}/w.pt#sha256={digest}'",
        f"++codec.reference.weights={tmp_path}/w.pt",
        f"codec.sources=[{tmp_path}/w.pt,'x',3]",
        *overrides[7:],
    ]


def test_arguments_that_are_no_overrides_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("point=3").touch()
    arguments = ["a.png", "results=1/b.bin", "codec=jpeg", "+codec.quality=5", "codec/base=elic"]
    assert split_paths(arguments) == ([Path("a.png"), Path("results=1/b.bin")], arguments[2:])
    assert is_override("codex=jpeg")  # to be refused with the right name
    assert not is_override("point=3")
    assert not is_override("./seed=3")


def test_text_that_no_file_can_be_called_is_an_override():
    long = "codec.captioner.text=" + "x" * 5000
    assert is_override(long)
    assert quote_paths([long, f"codec.caption=({'x' * 300})"])[0] == long


def test_the_runs_of_a_sweep_name_their_folders_quoted():
    training = ["codec=cdc", f"hydra.run.dir={quoted('runs (1), a=b')}"]
    _, (evaluation,) = split_evaluations([*training, "evaluate=datamodule=kodak"])
    assert compose_config([*evaluation, "datamodule=photos"]).codec.weights == "runs (1), a=b/model"
    assert run_folder(evaluation) == "runs (1), a=b/kodak"


def test_commands_refuse_in_one_line_what_is_too_long_for_a_path(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.compress", str(tmp_path / "no.png"), "out.bin"),
            *("codec=perco", "codec/captioner=fixed", f"codec.captioner.text={'x' * 300}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == f"error: no such file: {tmp_path / 'no.png'}"
