"""Show the model card of a codec or network that ships, or list all of them.

    python -m experiments.info
    python -m experiments.info NAME

A card states the training data and its licence, the recipe, the compute, figures and limits. It is
the README.md beside the weights.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import fail

CARD = "README.md"


def show(name: str) -> str:
    """The card of a shipped model, as Markdown.

    Raises:
        ValueError: nothing ships by that name.
    """
    from diffcodec.weights.sources import shipped

    known = shipped()
    if name not in known:
        raise ValueError(f"no shipped model {name!r}, choose from {', '.join(sorted(known))}")
    return _read(known[name])


def overview() -> str:
    """A line for each shipped model: its name and the first sentence of its card."""
    from diffcodec.weights.sources import shipped

    lines = []
    for name, folder in sorted(shipped().items()):
        paragraph = " ".join(_read(folder).split("\n\n")[1].split())
        lines.append(f"{name:<20}{paragraph.partition('. ')[0].rstrip('.')}")
    return "\n".join(lines)


def _read(folder: Path) -> str:
    return (folder / CARD).read_text(encoding="utf-8").strip()


def main(arguments: Sequence[str]) -> None:
    """Print a card, or the overview.

    Raises:
        ValueError: more than one name, or one that does not ship.
    """
    if set(arguments) & {"-h", "--help"}:
        print((__doc__ or "").strip())
        return
    if len(arguments) > 1:
        raise ValueError(f"one name at a time, got {', '.join(arguments)}")
    print(show(arguments[0]) if arguments else overview())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as error:
        fail(error)
