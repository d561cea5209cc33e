"""Checks that curves were measured alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffcodec.metrics import Metric, SetMetric, all_metrics
from experiments.comparison.lines import Line
from experiments.comparison.runs import Run


@dataclass(frozen=True)
class Field:
    """A property of runs that compared curves must share.

    Attributes:
        name: for messages.
        read: run -> its value as text, or None if the run does not state it.
        metrics: only curves with one of these are checked; empty: all.
    """

    name: str
    read: Callable[[Run], str | None]
    metrics: tuple[str, ...] = ()

    def value(self, run: Run) -> str | None:
        """The run's value; None if it is not stated or irrelevant."""
        if self.metrics and not set(self.metrics) & set(run.curve.keys):
            return None
        return self.read(run)


def fields(rate: str) -> list[Field]:
    """The properties that are compared for runs with this rate axis."""
    known = all_metrics().values()
    over_sets = tuple(metric.key for metric in known if isinstance(metric, SetMetric))
    variants = [
        Field(f"{m.label} variant", lambda run, m=m: _variant(run.meta, m), (m.key,))  # type: ignore[misc]
        for m in known
        if m.variant
    ]
    return [
        Field("data set", lambda run: _text(run.meta.get("dataset"))),
        Field("images", lambda run: _text(run.meta.get("num_images"))),
        Field("skipped images", lambda run: _skipped(run.meta)),
        Field("sizes", lambda run: _sizes(run.meta)),
        Field("digest of the originals", lambda run: _text(run.meta.get("digest"))),
        Field("rate", lambda run: _rate(run, rate)),
        Field("FID", lambda run: _fid(run.meta), over_sets),
        Field("FID patches", lambda run: _text(run.meta.get("num_patches")), over_sets),
        *variants,
    ]


def check(curves: Sequence[Line], *, rate: str = "bpp", allow: bool = False) -> list[Line]:
    """The curves, each marked with the properties it does not share.

    Args:
        curves: to compare.
        rate: the metric on the rate axis.
        allow: mark differences instead of refusing them.

    Raises:
        ValueError: the curves differ; the message lists which runs and in what.
    """
    differing = []
    for field in fields(rate):
        values: dict[str, list[str]] = {}
        for curve in curves:
            for run in curve.runs:
                value = field.value(run)
                if value is not None:
                    values.setdefault(value, []).append(curve.name)
        if len(values) > 1:
            differing.append((field, values))
    if differing and not allow:
        told = "; ".join(f"{field.name}: {_told(values)}" for field, values in differing)
        hint = "--allow compares them anyway"
        if any(field.name == "data set" for field, _ in differing):
            hint = f"--by-dataset compares on each data set, {hint}"
        raise ValueError(f"these curves cannot be compared: {told}. {hint}")
    return [_marked(curve, [field for field, _ in differing]) for curve in curves]


def unstated(curves: Sequence[Line], rate: str = "bpp") -> dict[str, list[str]]:
    """Name of a property -> names of the curves that do not state it while others do."""
    found: dict[str, list[str]] = {}
    for field in fields(rate):
        relevant = [
            curve
            for curve in curves
            if not field.metrics or any(curve.pairs(m, rate) for m in field.metrics)
        ]
        silent = [c.name for c in relevant if any(field.value(run) is None for run in c.runs)]
        if silent and len(silent) < len(relevant):
            found[field.name] = silent
    return found


def _marked(curve: Line, differing: Sequence[Field]) -> Line:
    marks = []
    for field in differing:
        values = dict.fromkeys(filter(None, (field.value(run) for run in curve.runs)))
        if values:
            marks.append(f"{field.name}: {'/'.join(values)}")
    return replace(curve, marks=tuple(marks))


def _told(values: Mapping[str, Sequence[str]]) -> str:
    return " against ".join(
        f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in values.items()
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _skipped(meta: Mapping[str, Any]) -> str | None:
    """The images that could not be read; different ones make a different set."""
    if "num_skipped" not in meta:
        return None
    return ", ".join(map(str, meta.get("skipped") or [])) or "none"


def _sizes(meta: Mapping[str, Any]) -> str | None:
    sizes = meta.get("sizes")
    if not sizes:
        return None
    if len(sizes) > 4:
        return f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"
    return "+".join(map(str, sizes))


def _rate(run: Run, rate: str) -> str | None:
    has_both = all({"bpp", "bpp-payload"} <= set(values) for values in run.curve.metrics)
    if has_both:
        return "without header" if rate == "bpp-payload" else "with header"
    stated = str(run.meta.get("rate") or "").partition(";")[0]
    if "without" in stated or "payload" in stated:
        return "without header"
    if "header" in stated or "whole file" in stated:
        return "with header"
    return None


def _fid(meta: Mapping[str, Any]) -> str | None:
    """One name per protocol; publications word it differently."""
    stated = meta.get("fid")
    if stated is None:
        return None
    if "256x256" in stated and "128" in stated:
        return "256x256 patches, second pass at 128"
    return str(stated)


def _variant(meta: Mapping[str, Any], metric: Metric) -> str | None:
    variants = meta.get("variants") or {}
    if metric.key in variants:
        return str(variants[metric.key])
    # As in publications and older files: for LPIPS only, beside the rest or in the config.
    evaluation = (meta.get("config") or {}).get("callbacks", {}).get("evaluation") or {}
    return _text(meta.get(metric.key, evaluation.get(metric.key)))
