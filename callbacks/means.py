"""Means over the rows of images, and which images they exclude."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Means:
    """Means over the images, in float64.

    Attributes:
        values: key of a metric -> mean over finite values; PSNR of an exact reconstruction is
            infinite. A metric without finite values has no mean.
        infinite: key -> names of the images whose value is infinite.
        lacking: key -> names of the images without a value; the metric then has no mean.
    """

    values: dict[str, float] = field(default_factory=dict)
    infinite: dict[str, list[str]] = field(default_factory=dict)
    lacking: dict[str, list[str]] = field(default_factory=dict)


def means_of(rows: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> Means:
    """The means of some metrics over rows, each with the `name` of its image."""
    means = Means()
    for key in keys:
        if lacking := [str(row["name"]) for row in rows if row.get(key) is None]:
            means.lacking[key] = lacking
            continue
        if infinite := [str(row["name"]) for row in rows if math.isinf(row[key])]:
            means.infinite[key] = infinite
        finite = [row[key] for row in rows if not math.isinf(row[key])]
        if finite:
            means.values[key] = math.fsum(finite) / len(finite)
    return means


def named(names: Sequence[str], shown: int = 3) -> str:
    """The first few names of a list and the number of the others."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
