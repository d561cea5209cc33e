import json
import math
from itertools import pairwise

import pytest

from diffcodec.points import Point, combine
from diffcodec.sdedit.preset_points import build_points
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.strength import (
    HIGHEST,
    LOWEST,
    NUM_LEVELS,
    find_index,
    find_nearest,
    level_sigma,
    log2_growth,
    num_perceptual_trials,
    read_strengths,
    write_strengths,
)

PRESETS = {"fast": Preset("consistency"), "medium": Preset(steps=5)}


BASE = combine(rate={"q": [1, 2]})


def points(strength="auto", blend=1.0, show_base=True, presets=PRESETS, base=BASE):
    return build_points(base, presets, strength=strength, blend=blend, show_base=show_base)


def test_a_line_for_each_preset_and_the_bases_own_last():
    found = points()
    assert list(found) == [
        *("fast,q=1", "fast,q=2", "medium,q=1", "medium,q=2", "base,q=1", "base,q=2"),
    ]
    assert found["medium,q=2"] == (
        Point(
            *("medium,q=2", {"q": 2}, {}, {"preset": "medium", "strength": "auto", "blend": 1.0}),
            series="medium",
        ),
        BASE[1],
    )
    plain, base_point = found["base,q=1"]
    assert plain.decoding == {"preset": None, "strength": 0.0, "blend": 1.0}
    assert base_point == BASE[0]


def test_presets_share_the_base_s_bytes_unless_strengths_are_signalled():
    shared = [point for point, _ in points().values() if point.rate == {"q": 1}]
    assert all(shared[0].shares_bytes_with(point) for point in shared)
    sent = [point for point, _ in points("per_image").values() if point.rate == {"q": 1}]
    assert not any(sent[0].shares_bytes_with(point) for point in sent[1:])


def test_lists_make_lines_of_their_own():
    found = points(["auto", 0.2], [0.5, 1], show_base=False)
    assert {point.series for point, _ in found.values()} == {
        f"{preset},strength={s},blend={b}"
        for preset in PRESETS
        for s in ("auto", "0.2")
        for b in ("0.5", "1")
    }


def test_one_line_alone_needs_no_name():
    found = points(show_base=False, presets={"fast": PRESETS["fast"]})
    assert {point.series for point, _ in found.values()} == {""}


def test_lines_of_the_base_stay_apart():
    base = combine(rate={"q": 1}, decoding={"gamma": [0.0, 0.8]})
    found = [point for point, _ in points(base=base, presets={"fast": PRESETS["fast"]}).values()]
    assert [point.series for point in found] == [
        *("fast,gamma=0", "fast,gamma=0.8", "base,gamma=0", "base,gamma=0.8"),
    ]
    assert found[1].decoding["gamma"] == 0.8


def test_a_preset_is_needed_and_its_name_is_its_own():
    with pytest.raises(ValueError, match="fast, medium or slow"):
        points(presets={})
    with pytest.raises(ValueError, match="cannot be called 'base'"):
        points(presets={"base": Preset()})


def test_levels_rise_from_nothing_in_equal_ratios():
    levels = [level_sigma(i) for i in range(NUM_LEVELS)]
    assert levels[:2] == [0.0, LOWEST]
    assert levels[-1] == pytest.approx(HIGHEST)
    ratios = [b / a for a, b in pairwise(levels[1:])]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    with pytest.raises(ValueError, match="0 to 255"):
        level_sigma(256)


def test_bisection_finds_the_last_level_below_twice_the_error():
    calls = []

    def excess(sigma):
        calls.append(sigma)
        return log2_growth(1 + (sigma / 0.2) ** 2, 1.0)

    index = find_index(excess, max_sigma=10)
    assert level_sigma(index) <= 0.2 < level_sigma(index + 1)
    assert len(calls) == 8
    assert level_sigma(find_index(excess, max_sigma=0.1)) <= 0.1
    assert find_index(lambda sigma: math.inf, 1.0) == 0
    assert log2_growth(0.1, 0.0) == math.inf


def test_strengths_are_written_and_read(tmp_path):
    strengths = {"fast": {"q=1": 0.25}}
    write_strengths(strengths, tmp_path / "s.json", {"base": "00"})
    assert read_strengths(str(tmp_path / "s.json")) == strengths
    (tmp_path / "older.json").write_text(json.dumps(strengths))
    assert read_strengths(str(tmp_path / "older.json")) == strengths
    for bad in ([1], {"fast": 3}, {"fast": {"q=1": -1}}, {"fast": {"q=1": "a"}}):
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match="is not a strengths file"):
            read_strengths(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("best", [0.0, 0.006, 0.05, 0.31, 2.0])
@pytest.mark.parametrize("max_sigma", [0.4, 10.0])
def test_the_level_of_least_distance_is_found(best, max_sigma):
    tried = []

    def distance(sigma):
        tried.append(sigma)
        return abs(math.log(max(sigma, 1e-3) / max(best, 1e-3)))

    index = find_nearest(distance, max_sigma)
    expected = min(best, level_sigma(max(i for i in range(256) if level_sigma(i) <= max_sigma)))
    if best == 0:
        assert index == 0
    else:
        assert level_sigma(index) == pytest.approx(expected, rel=0.12)
    assert len(tried) == len({*tried}) <= num_perceptual_trials(max_sigma)
    assert max(tried) <= max_sigma


def test_two_rules_are_not_in_one_list():
    with pytest.raises(ValueError, match="auto and perceptual cannot be in one list"):
        points(["auto", "perceptual"])
    assert len(points(["perceptual", 0.2], show_base=False)) == 8
