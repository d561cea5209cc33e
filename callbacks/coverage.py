"""The rows of an evaluation: each image once, and all images that were to be measured."""

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from lightning.pytorch import Trainer

from callbacks.means import named
from callbacks.measurements import Features

log = logging.getLogger(__name__)


def check_cover(
    trainer: Trainer, rows: Sequence[Mapping[str, Any]], points: Iterable[str], skipped: Set[int]
) -> None:
    """Check that each point has exactly the rows of the images to be measured."""
    datamodule: Any = getattr(trainer, "datamodule", None)
    if not hasattr(datamodule, "dataset") or trainer.limit_test_batches != 1.0:
        return
    items = datamodule.dataset("test").items
    expected = {*range(len(items))} - skipped
    for point in points:
        found = {row["index"] for row in rows if row["point"] == point}
        if found != expected:
            names = named([items[index].name for index in sorted(expected - found)])
            raise ValueError(
                f"{len(expected - found)} of {len(expected)} images have no row at {point} "
                f"({names or 'some are of another set'}): another process has changed the run "
                "folder, so nothing is written; start again with another hydra.run.dir"
            )


def report_skipped(skipped: Sequence[Any], measured: Set[int]) -> None:
    if not measured:
        raise ValueError(f"none of the {len(skipped)} images could be read: {skipped[0].reason}")
    log.warning(
        "%d of %d images were skipped because they could not be read: %s",
        len(skipped),
        len(skipped) + len(measured),
        "; ".join(image.reason for image in skipped),
    )


def unique_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per operating point and dataset index, sorted by point and index."""
    rows = list(rows)
    order = {name: i for i, name in enumerate(dict.fromkeys(row["point"] for row in rows))}
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((order[row["point"]], row["index"]), row)
    return [found[key] for key in sorted(found)]


def unique_features(features: Iterable[Features]) -> list[Features]:
    """One entry per dataset index, sorted by index."""
    found: dict[int, Features] = {}
    for of_image in features:
        found.setdefault(of_image.index, of_image)
    return [found[index] for index in sorted(found)]
