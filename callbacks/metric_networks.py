"""The metrics of an evaluation, and the networks that they measure with."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from diffcodec.metrics import (
    AnnotatedMetric,
    CodingMetric,
    ImageMetric,
    Metric,
    SetMetric,
    all_metrics,
)

log = logging.getLogger(__name__)

LOADED = (ImageMetric, AnnotatedMetric, SetMetric)
"""Metrics that may hold a network."""


def choose_metrics(keys: Sequence[str] | None) -> list[Metric]:
    known = all_metrics()
    measured = {k: m for k, m in known.items() if isinstance(m, (*LOADED, CodingMetric))}
    if keys is None:
        return [metric for metric in measured.values() if metric.default]
    unknown = [key for key in keys if key not in measured]
    if unknown:
        raise ValueError(
            f"unknown metric {', '.join(map(repr, unknown))}, choose from {', '.join(measured)}"
        )
    # A curve needs rates.
    rates = [key for key, metric in measured.items() if metric.kind == "rate"]
    return [metric for key, metric in measured.items() if key in {*rates, *keys}]


def taker(metric: Metric) -> str:
    """The name under which weights are given to a metric; metrics of one embedding share it."""
    return metric.embedding if isinstance(metric, SetMetric) else metric.key


def load_networks(
    metrics: Sequence[Metric], weights: Mapping[str, str | None], *, announce: bool
) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """Build the measures of images and the embeddings of sets, by the name of their weights.

    Args:
        metrics: what is measured.
        weights: sources of the networks, by `taker`; None is the usual place.
        announce: log which metrics are left out because their networks cannot be had.
    """
    measures: dict[str, Any] = {}
    embeddings: dict[str, nn.Module] = {}
    missing: dict[str, list[str]] = {}
    for metric in metrics:
        if not isinstance(metric, LOADED) or taker(metric) in embeddings:
            continue
        name = taker(metric)
        assert metric.build is not None
        try:
            built = metric.build(weights.get(name))
        except ValueError as error:
            hint = f"{error}; pass callbacks.evaluation.weights.{name}=FILE"
            missing.setdefault(hint, []).append(metric.key)
            continue
        if isinstance(metric, SetMetric):
            assert isinstance(built, nn.Module)
            embeddings[name] = built
        else:
            measures[name] = built
    if missing and announce:
        told = "; ".join(f"{' and '.join(keys)} ({hint})" for hint, keys in missing.items())
        log.warning("not measured: %s", told)
    return measures, embeddings
