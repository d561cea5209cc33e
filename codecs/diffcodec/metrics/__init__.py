"""Registry of metrics: all modules of this package that define `METRIC`, found automatically."""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from diffcodec.metrics.metric import (
    KINDS,
    AnnotatedMetric,
    Coding,
    CodingMetric,
    ImageMetric,
    Metric,
    SetMetric,
    spans_a_decade,
)

__all__ = [
    "AnnotatedMetric",
    "Coding",
    "CodingMetric",
    "ImageMetric",
    "Metric",
    "SetMetric",
    "all_metrics",
    "find_metric",
    "headlines",
    "ordered",
    "spans_a_decade",
]


def all_metrics() -> dict[str, Metric]:
    """All metrics by key, in display order."""
    return _read_package(tuple(__path__))


@cache
def _read_package(path: tuple[str, ...]) -> dict[str, Metric]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(path)]
    found: list[Metric] = [module.METRIC for module in modules if hasattr(module, "METRIC")]
    return {metric.key: metric for metric in sorted(found, key=_rank)}


def find_metric(key: str) -> Metric:
    """The metric of a key; an unknown metric is labelled by its key."""
    return all_metrics().get(key) or Metric(key, key, kind="distortion", order=1000)


def ordered(keys: Iterable[str]) -> list[Metric]:
    """The metrics of these keys without duplicates, in display order."""
    return sorted((find_metric(key) for key in dict.fromkeys(keys)), key=_rank)


def headlines(keys: Iterable[str]) -> list[Metric]:
    """The headline metrics among these keys."""
    return [metric for metric in ordered(keys) if metric.headline]


def _rank(metric: Metric) -> tuple[int, int, str]:
    return KINDS.index(metric.kind), metric.order, metric.key
