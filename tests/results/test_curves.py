import csv
import json
import math

import pytest

from diffcodec.points import Point, combine
from diffcodec.results.curves import (
    Curve,
    curve_from_json,
    finite,
    picture_name,
    write_json,
    write_rows,
)


@pytest.fixture
def curve():
    metrics = [
        finite({"bpp": 0.1, "psnr-rgb": 30.0, "ms-ssim-rgb": 0.9, "decoding_time": 1.0}),
        finite({"bpp": 0.2, "psnr-rgb": math.inf, "fid": 3.0}),
    ]
    points = combine(rate={"quality": [10, 50]}, decoding={"steps": 5})
    return Curve("jpeg", points, tuple(metrics), {"dataset": "kodak"})


def test_the_schema_is_compressai_s(curve, tmp_path):
    write_json(curve.to_json(), tmp_path / "curve.json")
    read = json.loads((tmp_path / "curve.json").read_text())
    assert read["name"] == "jpeg"
    assert read["meta"]["dataset"] == "kodak"
    assert read["meta"]["points"][0] == {
        **{"name": "quality=10", "rate": {"quality": 10}, "encoding": {}},
        **{"decoding": {"steps": 5}, "series": ""},
    }
    assert read["results"] == {
        "bpp": [0.1, 0.2],
        "psnr-rgb": [30.0, None],  # JSON has no infinity
        "ms-ssim-rgb": [0.9, None],
        "decoding_time": [1.0, None],
        "fid": [None, 3.0],
    }


def test_what_is_written_is_read(curve):
    read = curve_from_json(json.loads(json.dumps(curve.to_json())), source="file")
    assert (read.name, read.points, read.metrics) == (curve.name, curve.points, curve.metrics)
    assert read.meta == curve.meta
    assert read.pairs("psnr-rgb") == [(0.1, 30.0)]


def test_files_with_names_alone_are_read():
    results = {"bpp": [0.1, 0.2]}
    older = curve_from_json({"meta": {"points": ["a", "b"]}, "results": results}, source="x")
    assert older.points == (Point("a"), Point("b"))
    published = curve_from_json({"name": "VTM", "results": results}, source="x")
    assert [point.name for point in published.points] == ["point 1", "point 2"]


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], {}, {"results": []}, {"results": {"bpp": 3}}, {"results": {"bpp": []}}),
        {"results": {"bpp": [1], "psnr-rgb": [1, 2]}},
        {"meta": {"points": ["a"]}, "results": {"bpp": [1, 2]}},
        {"meta": {"points": [{"rate": {}}]}, "results": {"bpp": [1]}},
    ],
)
def test_what_is_no_curve_is_refused_by_name(data):
    with pytest.raises(ValueError, match=r"x\.json is not a curve"):
        curve_from_json(data, source="x.json")


def test_rows_are_csv_with_a_column_for_every_key(tmp_path):
    write_rows([{"name": "a,b", "psnr": None}, {"name": "c", "fid": 1.5}], tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"name": "a,b", "psnr": "", "fid": ""},
            {"name": "c", "psnr": "", "fid": "1.5"},
        ]


def test_a_picture_s_file_is_named_by_index_and_image():
    assert picture_name(7, "some folder/a b.c.webp") == "0007-a_b.c"
