"""Find the enhancer's strengths for `strength=auto`, and write them for decoders.

    python -m experiments.calibrate FILE codec=sdedit codec/base=… [key=value …]

FILE is for `codec.strength=FILE`, and ends in `.json`. A run finds them, too, at its start;
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
        ValueError: a setting is wrong, or the codec has no strengths to find.
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
        raise ValueError(f"{type(codec).__name__} has no strengths to find: use codec=sdedit")
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # says what it will cost
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
