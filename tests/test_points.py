import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcodec.points import Point, combine, find_points, group_by_bytes

SETTINGS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    max_size=3,
)


def test_lists_make_all_combinations_and_are_what_names_say():
    points = combine(
        rate={"level": [0, 3]},
        encoding={"condition": "both"},
        decoding={"steps": [5, 20], "gamma": 0.8},
    )
    assert [point.name for point in points] == [
        *("level=0,steps=5", "level=0,steps=20", "level=3,steps=5", "level=3,steps=20"),
    ]
    assert [point.series for point in points] == ["steps=5", "steps=20"] * 2
    assert points[1].rate == {"level": 0}
    assert points[1].encoding == {"condition": "both"}
    assert points[1].decoding == {"steps": 20, "gamma": 0.8}
    assert points[1].line == {"condition": "both", "steps": 20, "gamma": 0.8}


def test_one_line_alone_needs_no_name():
    (point,) = combine()
    assert (point.name, point.series) == ("default", "")
    assert [p.series for p in combine(rate={"quality": [1, 2]}, decoding={"steps": [5]})] == [
        "",
        "",
    ]


def test_points_that_share_their_bytes_are_grouped():
    points = combine(rate={"level": [0, 1]}, encoding={"text": ["a", "b"]}, decoding={"s": [1, 2]})
    groups = group_by_bytes(points)
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    assert all(group[0].decoding != group[1].decoding for group in groups)
    assert all(group[0].shares_bytes_with(group[1]) for group in groups)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="steps is an empty list"):
        combine(decoding={"steps": []})
    with pytest.raises(ValueError, match="duplicate names: level=1"):
        combine(rate={"level": [1, 1]})


def test_a_point_is_found_by_its_name_or_its_rate():
    points = combine(rate={"level": [0, 3]}, decoding={"gamma": [0.0, 0.8]})
    assert find_points(points, None) == points
    assert find_points(points, "level=3,gamma=0.8") == (points[3],)
    assert find_points(combine(rate={"quality": [10, 50]}), 50)[0].rate == {"quality": 50}
    with pytest.raises(ValueError, match="several operating points match '3', choose from level=0"):
        find_points(points, 3)
    with pytest.raises(ValueError, match="unknown operating point '7'"):
        find_points(points, 7)


@given(st.text(min_size=1), SETTINGS, SETTINGS, SETTINGS, st.text())
def test_points_survive_json(name, rate, encoding, decoding, series):
    point = Point(name, rate, encoding, decoding, series)
    assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point


@pytest.mark.parametrize("data", [3, {}, {"name": 3}, {"name": "a", "rate": [1]}])
def test_what_is_no_point_is_refused(data):
    with pytest.raises(ValueError, match="point"):
        Point.from_json(data)


def test_a_bare_name_is_a_point_without_settings():
    assert Point.from_json("level=3") == Point("level=3")


def test_a_setting_has_the_type_that_is_asked_for():
    point = Point("p", rate={"bpp": 1}, decoding={"steps": 5, "decoder": "flow", "best": True})
    assert (point.setting("steps", int), point.setting("decoder", str)) == (5, "flow")
    assert isinstance(point.setting("bpp", float), float)
    assert point.setting("best", bool) is True
    assert point.setting("gamma", float, 1.0) == 1.0
    with pytest.raises(KeyError):
        point.setting("gamma", float)
    with pytest.raises(TypeError, match="decoder of 'p' is 'flow', not of type int"):
        point.setting("decoder", int)
