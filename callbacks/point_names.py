"""What the name of an operating point says: its rate, and how its bytes are decoded."""

import re

RATE_PARTS = ("rate", "quality", "level", "ratio", "qp", "lmbda")
RATE_NAME = re.compile(r"\d+x\d+/\d+")


def point_settings(name: str) -> dict[str, str]:
    """The parts of an operating point's name that are not its rate.

    `steps=5,gamma=0.8` has `steps` and `gamma`, `fast,level=3` has `series` (a word without a
    key), `8x8/256`, `quality=50` and names that say nothing (`default`, `point 3`) have none.
    """
    parts: dict[str, str] = {}
    for part in name.split(","):
        key, separator, value = part.partition("=")
        if separator:
            if key not in RATE_PARTS:
                parts[key] = value
        elif not (RATE_NAME.fullmatch(part) or part == "default" or part.startswith("point ")):
            parts["series"] = ",".join(filter(None, (parts.get("series"), part)))
    return parts
