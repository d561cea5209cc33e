import math

import pytest

from experiments.comparison.lines import join
from experiments.comparison.matched_rates import common_rates, value_at


@pytest.fixture
def curves(make_run):
    low, high = [0.1, 0.2, 0.4], [0.2, 0.4, 0.8]
    return join(
        [
            make_run("a", {"bpp": low, "psnr-rgb": [10 * math.log10(r) for r in low]}, source="a"),
            make_run(
                "b", {"bpp": high, "psnr-rgb": [10 * math.log10(r) for r in high]}, source="b"
            ),
            make_run("c", {"bpp": [0.3], "psnr-rgb": [5.0]}, source="c"),
        ]
    )[0]


def test_values_between_points_and_none_beyond(curves):
    assert value_at(curves[0], "psnr-rgb", 0.3) == pytest.approx(10 * math.log10(0.3))
    assert value_at(curves[0], "psnr-rgb", 0.8) is None
    assert value_at(curves[2], "psnr-rgb", 0.32) == 5.0  # within 10% of a single point
    assert value_at(curves[2], "psnr-rgb", 0.4) is None
    assert value_at(curves[0], "fid", 0.3) is None


def test_common_rates_are_those_that_most_curves_reach(curves):
    assert common_rates(curves, ["psnr-rgb"]) == [pytest.approx(0.3)]
    rates = common_rates(curves[:2], ["psnr-rgb"])
    assert all(0.2 <= rate <= 0.4 for rate in rates)
    assert len(rates) == 3
    assert common_rates(curves, ["fid"]) == []
