"""Deltas against the package called by hand, closed forms, and reasons for blanks."""

import math

import numpy as np
import pytest
from bjontegaard import bd_psnr as library_psnr
from bjontegaard import bd_rate as library_rate

from experiments.comparison.bjontegaard_delta import METHODS, bd_metric, bd_rate
from experiments.comparison.lines import join
from experiments.comparison.runs import find_runs


def curves(*runs):
    return join(runs)[0]


def line(make_run, name, metric, slope, offset, rates=(0.1, 0.2, 0.4, 0.8), **kwargs):
    values = [slope * math.log10(rate) + offset for rate in rates]
    return make_run(name, {"bpp": list(rates), metric: values}, source=name, **kwargs)


@pytest.mark.parametrize("method", METHODS)
def test_published_curves_give_what_the_package_gives(published, method):
    runs = find_runs([str(published / "vtm.json"), str(published / "bpg_444_x265_ycbcr.json")])
    vtm, bpg = curves(*runs)
    columns = [
        np.array([metrics[key] for metrics in run.curve.metrics])
        for run in (runs[1], runs[0])
        for key in ("bpp", "psnr-rgb")
    ]
    options = {"method": method, "require_matching_points": False, "min_overlap": 0}
    rate, psnr = (
        bd_rate(bpg, vtm, "psnr-rgb", method=method),
        bd_metric(bpg, vtm, "psnr-rgb", method=method),
    )
    assert rate.value == pytest.approx(library_rate(*columns, **options), rel=1e-12)
    assert psnr.value == pytest.approx(library_psnr(*columns, **options), rel=1e-12)
    assert -30 < rate.value < -15  # VTM needs about a quarter less than BPG
    assert psnr.value > 0
    # Anchor and test swapped: the mean of log-rates and of metrics changes its sign.
    back = bd_rate(vtm, bpg, "psnr-rgb", method=method)
    assert (1 + rate.value / 100) * (1 + back.value / 100) == pytest.approx(1, rel=1e-12)
    assert bd_metric(vtm, bpg, "psnr-rgb", method=method).value == pytest.approx(-psnr.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("metric", "slope"), [("psnr-rgb", 10.0), ("fid", -7.0), ("lpips", -0.3)])
def test_lines_in_closed_form_for_metrics_of_either_sign(make_run, method, metric, slope):
    # Half the rate everywhere is a shift by log10(2) along the axis.
    anchor, test = curves(
        line(make_run, "a", metric, slope, 30.0),
        line(make_run, "b", metric, slope, 30.0 + slope * math.log10(2)),
    )
    assert bd_rate(anchor, test, metric, method=method).value == pytest.approx(-50)
    delta = bd_metric(anchor, test, metric, method=method)
    assert delta.value == pytest.approx(slope * math.log10(2))
    assert (delta.low, delta.high) == pytest.approx((0.1, 0.8))
    assert delta.overlap == pytest.approx(1)


def test_a_cubic_is_integrated_in_closed_form(make_run):
    # 30 against 30 + u^3, u = log10(rate): a mean of u^3 over the shared range, -1 to 0.5, which an
    # integral of it gives.
    u = np.array([-1.0, -0.25, 0.5])
    anchor, test = curves(
        make_run("a", {"bpp": list(10 ** np.r_[u, 0.1]), "fid": [30.0] * 4}, source="a"),
        make_run(
            "b",
            {"bpp": list(10 ** np.r_[u, 0.1, 1]), "fid": list(30 + np.r_[u, 0.1, 1] ** 3)},
            source="b",
        ),
    )
    delta = bd_metric(anchor, test, "fid", method="cubic")
    assert delta.value == pytest.approx((0.5**4 - 1) / 4 / 1.5)
    akima = bd_metric(anchor, test, "fid")
    assert akima.value is not None
    assert abs(akima.value - delta.value) > 1e-3


@pytest.mark.parametrize("delta", [bd_metric, bd_rate])
def test_a_cubic_needs_four_points(make_run, delta):
    anchor, test = curves(
        line(make_run, "a", "psnr-rgb", 10.0, 30.0),
        line(make_run, "b", "psnr-rgb", 10.0, 31.0, rates=(0.1, 0.2, 0.4)),
    )
    found = delta(anchor, test, "psnr-rgb", method="cubic")
    assert found.value is None
    assert found.reason == "a cubic needs 4 points, this curve has 3"


def test_curves_of_different_lengths_share_what_they_share(make_run):
    anchor, test = curves(
        line(make_run, "a", "psnr-rgb", 10.0, 30.0),
        line(make_run, "b", "psnr-rgb", 10.0, 31.0, rates=(0.4, 0.8, 1.6, 3.2, 6.4)),
    )
    delta = bd_metric(anchor, test, "psnr-rgb")
    assert delta.value == pytest.approx(1)
    assert (delta.low, delta.high) == pytest.approx((0.4, 0.8))
    assert delta.overlap == pytest.approx(1 / 6)
    assert delta.doubtful


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ({"bpp": [2, 3], "psnr-rgb": [50, 60]}, "the rates do not overlap: 0.1 to 0.8 and 2 to 3"),
        ({"bpp": [0.2], "psnr-rgb": [30]}, "this curve has a single point"),
        ({"bpp": [0.2, 0.3], "lpips": [0.1, 0.2]}, "this curve has no psnr-rgb"),
        ({"bpp": [0.2, 0.3], "psnr-rgb": [None, None]}, "this curve has no psnr-rgb"),
        ({"bpp": [0.2, 0.2], "psnr-rgb": [30, 31]}, "several values at one rate"),
    ],
)
def test_no_value_has_a_reason(make_run, results, reason):
    anchor, test = curves(
        line(make_run, "a", "psnr-rgb", 10.0, 30.0), make_run("b", results, source="b")
    )
    delta = bd_metric(anchor, test, "psnr-rgb")
    assert delta.value is None
    assert reason in delta.reason


def test_rates_need_a_metric_that_rises_or_falls(make_run):
    rates = [0.1, 0.2, 0.4]
    anchor, test = curves(
        make_run("a", {"bpp": rates, "fid": [9.0, 5.0, 3.0]}, source="a"),
        make_run("b", {"bpp": rates, "fid": [8.0, 4.0, 5.0]}, source="b"),
    )
    assert bd_rate(anchor, test, "fid").reason == "fid does not change steadily with the rate"
    assert bd_metric(anchor, test, "fid").value is not None


def test_an_unknown_interpolation_lists_the_choices(make_run):
    (curve,) = curves(make_run())
    with pytest.raises(ValueError, match="choose from akima, pchip, cubic"):
        bd_rate(curve, curve, "psnr-rgb", method="linear")
