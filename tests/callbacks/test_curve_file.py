import csv
import json
import math

from callbacks.curve_file import curve, git_revision, write_json, write_rows


def test_the_schema_is_compressai_s(tmp_path):
    metrics = [
        {"bpp": 0.1, "psnr": 30.0, "ms_ssim": 0.9, "decode_seconds": 1.0},
        {"bpp": 0.2, "psnr": math.inf, "fid": 3.0},
    ]
    data = curve("jpeg", ["a", "b"], metrics, {"dataset": "kodak"})
    write_json(data, tmp_path / "curve.json")
    read = json.loads((tmp_path / "curve.json").read_text())
    assert read["name"] == "jpeg"
    assert read["meta"] == {"dataset": "kodak", "points": ["a", "b"]}
    assert read["results"] == {
        "bpp": [0.1, 0.2],
        "psnr-rgb": [30.0, None],  # JSON has no infinity
        "ms-ssim-rgb": [0.9, None],
        "decoding_time": [1.0, None],
        "fid": [None, 3.0],
    }


def test_rows_are_csv(tmp_path):
    write_rows([{"name": "a,b", "psnr": None}, {"name": "c", "psnr": 1.5}], tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"name": "a,b", "psnr": ""},
            {"name": "c", "psnr": "1.5"},
        ]


def test_the_revision_is_a_commit_or_nothing():
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40
