import pytest

from callbacks.point_names import point_settings


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("steps=5,gamma=0.8", {"steps": "5", "gamma": "0.8"}),
        ("8x8/256,steps=5", {"steps": "5"}),
        ("fast,level=3", {"series": "fast"}),
        ("quality=50", {}),
        ("default", {}),
        ("point 3", {}),
    ],
)
def test_parts_of_a_point_s_name(name, parts):
    assert point_settings(name) == parts
