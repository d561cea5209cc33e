"""The program of a W&B sweep agent: `experiments.run` with arguments as W&B can name them.

    python -m experiments.agent codec=… group.option=… key=value …
    python -m experiments.agent experiment=… 'evaluate=datamodule=kodak' …

Names of sweep parameters cannot contain a slash, so `codec.base=elic` means the group choice
`codec/base=elic` if there is one. Values keep their types of the sweep file: null, true, lists,
strings of digits and strings with commas. Files go to `outputs/sweep/SWEEP/RUN`.

Each `evaluate=ARGUMENTS` starts a run after the training that measures its weights, in a folder
below the training's. It inherits the training's `codec`, `name` and `logger` arguments.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.cli import check_overrides, is_choice, prepare_command_line
from experiments.overrides import quoted, run_folder, text_value, written
from experiments.run import main

EVALUATE = "evaluate="
_OPENING = ("'", '"', "[", "{", "(")
RUN_DIR = "hydra.run.dir="
_CARRIED = re.compile(r"(codec[./]|logger[.=]|name=)")
# Variables by which W&B and Lightning connect the processes of one run.
_OF_THE_RUN = (
    *("WANDB_RUN_ID", "WANDB_SWEEP_ID", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)


def translate(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    """Arguments of an agent -> arguments of `experiments.run`."""
    out = []
    typed = _parameters(environment)
    for argument in arguments:
        key, separator, value = argument.partition("=")
        group = key.replace(".", "/")
        if not separator or argument.startswith((EVALUATE, RUN_DIR)):
            out.append(argument)
        elif is_choice(group, value):
            out.append(f"{group}={value}")
        elif key in typed and str(typed[key]) == value:
            exact = typed[key]
            out.append(f"{key}={text_value(exact) if isinstance(exact, str) else written(exact)}")
        else:
            out.append(f"{key}={_from_python(value)}")
    sweep, run = environment.get("WANDB_SWEEP_ID"), environment.get("WANDB_RUN_ID")
    if sweep and run and not any(a.startswith(RUN_DIR) for a in out):
        # Agents that start within one second must not share a folder.
        out.append(f"{RUN_DIR}{quoted(f'outputs/sweep/{sweep}/{run}')}")
    return out


def _parameters(environment: Mapping[str, str]) -> dict[str, Any]:
    """The typed parameters of the sweep, from the file that `wandb agent` writes."""
    path = environment.get("WANDB_SWEEP_PARAM_PATH")
    if not path or not Path(path).is_file():
        return {}
    data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    return {key: entry["value"] for key, entry in data.items() if isinstance(entry, dict)}


def _from_python(text: str) -> str:
    """A value as W&B prints it, `None` or `['a, b', True]`, as a value of an override."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError):
        return text_value(text) if "," in text and text[:1] not in _OPENING else text
    return written(value) if value is None or isinstance(value, list | tuple | dict) else text


def split_evaluations(arguments: list[str]) -> tuple[list[str], list[list[str]]]:
    """Translated arguments -> those of the training, and those of each evaluation after it.

    Raises:
        ValueError: the training's folder is unknown, or two evaluations would share a folder.
    """
    training = [a for a in arguments if not a.startswith(EVALUATE)]
    wanted = [a.removeprefix(EVALUATE) for a in arguments if a.startswith(EVALUATE)]
    if not wanted:
        return training, []
    folder = run_folder(training)
    if folder is None:
        raise ValueError(f"evaluate= needs the folder of the training: pass {RUN_DIR}FOLDER")
    carried = [a for a in training if _CARRIED.match(a)]
    runs = []
    for text in wanted:
        own = shlex.split(text)
        name = re.sub(r"[^\w.-]+", "_", own[0].partition("=")[2])
        weights = ["fit=false", f"codec.weights={quoted(f'{folder}/model')}"]
        runs.append([*carried, *own, *weights, f"{RUN_DIR}{quoted(f'{folder}/{name}')}"])
    if len({run[-1] for run in runs}) < len(runs):
        raise ValueError(f"two evaluations would share a folder: {wanted}")
    return training, runs


if __name__ == "__main__":
    translated = translate(sys.argv[1:], os.environ)
    wanted = [a for a in translated if a.startswith(EVALUATE)]
    sys.argv[1:] = [a for a in translated if a not in wanted]
    prepare_command_line()
    try:
        _, evaluations = split_evaluations([*sys.argv[1:], *wanted])
    except ValueError as error:
        sys.exit(f"error: {error}")
    for each in evaluations:
        check_overrides(each)
    main()
    # Under DDP, Lightning starts this command again for the other processes.
    if os.environ.get("LOCAL_RANK", "0") == os.environ.get("NODE_RANK", "0") == "0":
        environment = {k: v for k, v in os.environ.items() if k not in _OF_THE_RUN}
        for each in evaluations:
            command = [sys.executable, "-m", "experiments.run", *each]
            if code := subprocess.run(command, env=environment, check=False).returncode:
                sys.exit(code)
