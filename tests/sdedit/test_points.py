import json
import math
from itertools import pairwise

import pytest

from diffcodec.sdedit.points import Setting, build_settings
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.strength import (
    HIGHEST,
    LOWEST,
    NUM_LEVELS,
    find_index,
    growth,
    level,
    read_strengths,
    write_strengths,
)

PRESETS = {"fast": Preset("consistency"), "medium": Preset(steps=5)}


def settings(strength="auto", blend=1.0, show_base=True, presets=PRESETS):
    return build_settings(
        ["q=1", "q=2"], presets, strength=strength, blend=blend, show_base=show_base
    )


def test_a_line_for_each_preset_and_the_bases_own_last():
    found = settings()
    assert list(found) == [
        *("fast,q=1", "fast,q=2", "medium,q=1", "medium,q=2", "base,q=1", "base,q=2"),
    ]
    assert found["medium,q=2"] == Setting("medium", "q=2", "medium", "auto", 1.0)
    assert found["base,q=1"] == Setting("base", "q=1")


def test_lists_make_lines_of_their_own():
    found = settings(["auto", 0.2], [0.5, 1], show_base=False)
    assert {s.series for s in found.values()} == {
        f"{preset},strength={s},blend={b}"
        for preset in PRESETS
        for s in ("auto", "0.2")
        for b in ("0.5", "1")
    }


def test_a_preset_is_needed_and_its_name_is_its_own():
    with pytest.raises(ValueError, match="fast, medium or slow"):
        settings(presets={})
    with pytest.raises(ValueError, match="cannot be called 'base'"):
        settings(presets={"base": Preset()})


def test_levels_rise_from_nothing_in_equal_ratios():
    levels = [level(i) for i in range(NUM_LEVELS)]
    assert levels[:2] == [0.0, LOWEST]
    assert levels[-1] == pytest.approx(HIGHEST)
    ratios = [b / a for a, b in pairwise(levels[1:])]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    with pytest.raises(ValueError, match="0 to 255"):
        level(256)


def test_bisection_finds_the_last_level_below_twice_the_error():
    calls = []

    def excess(sigma):
        calls.append(sigma)
        return growth(1 + (sigma / 0.2) ** 2, 1.0)

    index = find_index(excess, max_sigma=10)
    assert level(index) <= 0.2 < level(index + 1)
    assert len(calls) == 8
    assert level(find_index(excess, max_sigma=0.1)) <= 0.1
    assert find_index(lambda sigma: math.inf, 1.0) == 0
    assert growth(0.1, 0.0) == math.inf


def test_strengths_are_written_and_read(tmp_path):
    strengths = {"fast": {"q=1": 0.25}}
    write_strengths(strengths, tmp_path / "s.json")
    assert read_strengths(str(tmp_path / "s.json")) == strengths
    for bad in ([1], {"fast": 3}, {"fast": {"q=1": -1}}, {"fast": {"q=1": "a"}}):
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match="holds no strengths"):
            read_strengths(str(tmp_path / "bad.json"))
