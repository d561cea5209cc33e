"""The shell commands of README and docs: both shells read them alike, their configs compose, and
those of README that need no data run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from experiments.cli import compose_config
from experiments.compare import parser
from experiments.console import COMMANDS
from experiments.sweep_overrides import check_jobs, for_each_job, is_multirun
from tests.test_docs import ROOT, shell_blocks

PROGRAMS = ("diffcodec", "pip", "make", "python3", "pytest", "wandb", "git", "head")
SHELLS = [name for name in ("bash", "zsh") if shutil.which(name)]
# Appends its own arguments, as JSON, to a file.
RECORDER = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=log)
"""


def recorded(block: str, shell: str, folder: Path) -> list[list[str]]:
    """The commands that a shell makes of a block, none of which is run."""
    programs, log = folder / f"{shell}-programs", folder / f"{shell}.jsonl"
    programs.mkdir()
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    (folder / ".venv/bin/activate").touch()
    for name in PROGRAMS:
        program = programs / name
        program.write_text(RECORDER.format(python=sys.executable, log=str(log)))
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    flags = ["-f"] if shell == "zsh" else ["--norc"]
    done = subprocess.run(
        [shell, *flags, "-e", "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def check(command: str, arguments: list[str]) -> None:
    """Compose the config of a `diffcodec` command."""
    assert command in COMMANDS
    config = "benchmark" if command == "benchmark" else "config"
    overrides = [argument for argument in arguments if "=" in argument or argument[:1] in "~-"]
    if command == "compare":
        assert parser().parse_args(arguments).files
    elif is_multirun(arguments):
        # Settings of a launcher are known once it is chosen, by its package.
        jobs = [a for a in for_each_job(overrides) if not a.startswith("hydra")]
        check_jobs(jobs, config)
    elif command not in ("info", "index"):
        of_caption = ["codec=perco"] if command == "caption" else []
        compose_config([*of_caption, *(o for o in overrides if o != "--info")], config)


def blocks_with_functions():
    """Every block, after the functions that earlier blocks of its page define."""
    functions: dict[str, str] = {}
    for block in shell_blocks():
        page, text = block.id.partition(":")[0], block.values[0]
        yield pytest.param(functions.get(page, "") + text, id=block.id)
        for function in re.findall(r"^\w+\(\) \{.*?\}\n", text, re.M | re.S):
            functions[page] = functions.get(page, "") + function


@pytest.mark.parametrize("block", blocks_with_functions())
def test_the_commands_compose_and_are_the_same_in_every_shell(block, tmp_path):
    commands = [recorded(block, shell, tmp_path) for shell in SHELLS]
    assert commands
    assert all(each == commands[0] for each in commands)
    for program, *arguments in commands[0]:
        if program == "diffcodec":
            check(arguments[0], arguments[1:])


def runs_here(block: str) -> bool:
    """Whether a block needs neither data nor weights of others, nor installs anything."""
    placeholders = re.search(r"\b(DIR|FILE|FOLDER|NAME|BSDS500|ID)\b", block)
    return "diffcodec" in block and not placeholders and "pip " not in block


def run_for_real(script: str, folder: Path) -> None:
    """Run a script in a shell that finds this environment's programs."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [SHELLS[-1], "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT / 'codecs'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_readme_says_runs(tmp_path):
    """Every block of README that needs nothing else, one after the other as a reader would."""
    readme = [p.values[0] for p in shell_blocks() if p.id.startswith("README.md")]
    blocks = [block for block in readme if runs_here(block)]
    assert blocks
    run_for_real("\n".join(blocks), tmp_path)
    assert len([*tmp_path.glob("outputs/**/curve.json")]) >= 2


@pytest.mark.slow
def test_the_blocks_that_code_a_photograph_run(tmp_path, photo):
    """Blocks of the running guide that compress and decompress files with what ships."""
    (tmp_path / "PHOTOS").mkdir()
    crop = to_pil_image(photo[0, :, :128, :160])
    for name in ("photo.jpg", "PHOTOS/a.png", "PHOTOS/b.png"):
        crop.save(tmp_path / name)
    blocks = [p.values[0] for p in shell_blocks() if p.id.startswith("running.md")]
    (block,) = [b for b in blocks if "diffcodec compress PHOTOS/" in b]
    run_for_real(block, tmp_path)
    assert Image.open(tmp_path / "photo.png").size == crop.size
    assert len([*(tmp_path / "pictures").glob("*.png")]) == 2
