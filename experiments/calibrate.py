"""Find the enhancer's strengths for `strength=auto` and write them to a file.

    python -m experiments.calibrate FILE codec=sdedit codec/base=… [key=value …]

FILE ends in `.json` and is for `codec.strength=FILE`. A run also finds the strengths at its start;
decoding never does.
"""

import logging
import sys
from pathlib import Path

from experiments.build import build_coder
from experiments.cli import compose_config, fail, quiet_libraries


def calibrate(output: Path, overrides: list[str]) -> None:
    """Find the strength of every preset at every point of the base, and write them.

    Raises:
        ValueError: a setting is wrong, or the codec has no strengths.
    """
    cfg = compose_config(overrides)
    if output.suffix != ".json":
        raise ValueError(f"{output} is not a strengths file: its name must end in .json")
    if not output.parent.is_dir():
        raise ValueError(f"no such folder: {output.parent}")
    quiet_libraries()
    codec = build_coder(cfg)

    from diffcodec.sdedit import SDEdit

    if not isinstance(codec, SDEdit):
        raise ValueError(f"{type(codec).__name__} has no strengths to calibrate: use codec=sdedit")
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # prints the cost in advance
    codec.calibrate()
    codec.write_strengths(output)


def main(arguments: list[str]) -> None:
    """Entry point of `python -m experiments.calibrate`."""
    if not arguments or "=" in arguments[0] or any(a.startswith("-") for a in arguments):
        sys.exit((__doc__ or "").strip())
    try:
        calibrate(Path(arguments[0]), arguments[1:])
    except (OSError, ValueError) as error:
        fail(error)
    print(arguments[0])


if __name__ == "__main__":
    main(sys.argv[1:])
