"""What a W&B sweep agent runs: `experiments.run`, for arguments as W&B can name them.

    python -m experiments.agent codec=… group.option=… key=value …

The name of a sweep's parameter has no slash, so `codec.base=elic` stands for the group's choice
`codec/base=elic` wherever there is such a choice. Files go to `outputs/sweep/SWEEP/RUN`.
"""

import os
import sys
from collections.abc import Mapping

from experiments.cli import check_overrides, is_choice
from experiments.run import main


def translate(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    """Arguments of an agent -> arguments of `experiments.run`."""
    out = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        group = key.replace(".", "/")
        out.append(f"{group}={value}" if separator and is_choice(group, value) else argument)
    sweep, run = environment.get("WANDB_SWEEP_ID"), environment.get("WANDB_RUN_ID")
    if sweep and run and not any(a.startswith("hydra.run.dir=") for a in out):
        # Agents that start in one second must not share a folder.
        out.append(f"hydra.run.dir=outputs/sweep/{sweep}/{run}")
    return out


if __name__ == "__main__":
    sys.argv[1:] = translate(sys.argv[1:], os.environ)
    check_overrides(sys.argv[1:])
    main()
