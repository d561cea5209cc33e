"""The command line, from files to files."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from callbacks.reconstructions import Reconstructions
from diffcodec.base.classical import PillowCodec
from diffcodec.measuring import CodecOutput, Decoding
from experiments.compare import compare, parser
from experiments.comparison.lines import join
from experiments.comparison.pictures import copy_pictures
from experiments.comparison.runs import find_runs
from tests.wandb_file import read_records


def test_everything_is_written(compared):
    names = {path.name for path in compared.iterdir()}
    assert names >= {
        *("index.html", "table.md", "table.tex", "table.csv", "deltas.csv", "curves.json"),
        *(
            f"{stem}.{suffix}"
            for suffix in ("png", "svg")
            for stem in ("overview", "psnr-rgb", "fd_effnet", "perception_distortion_fd_effnet")
        ),
    }
    assert Image.open(compared / "overview.png").size[0] > 600
    assert (compared / "psnr-rgb.svg").read_text().startswith("<?xml")
    output = (compared / "stdout.txt").read_text()
    for text in (
        "alpha (anchor)",
        "BD-FD-EffNet",
        "not stated by <Other> & Co",
        "index.html",
    ):
        assert text in output


def test_joined_curves_are_in_the_results_schema(compared):
    curves = json.loads((compared / "curves.json").read_text())
    assert [curve["name"] for curve in curves] == ["alpha", "beta", "<Other> & Co"]
    assert curves[0]["results"]["bpp"] == [0.2, 0.4]
    assert [p["rate"] for p in curves[0]["meta"]["points"]] == [{"quality": 1}, {"quality": 2}]


def test_the_table_s_numbers(compared):
    with (compared / "table.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    # 3 dB per doubling of the rate: 0.25 bpp is log2(1.25) doublings, beta is 1 dB above alpha.
    assert float(rows["beta"]["bd_psnr-rgb"]) == pytest.approx(1 - 3 * 0.321928, abs=1e-4)
    assert rows["<Other> & Co"]["bd_fd_effnet"] == ""


def test_originals_and_reconstructions_are_beside_the_page(compared):
    folders = sorted((compared / "pictures").iterdir())
    assert [folder.name for folder in folders] == ["00-one", "01-two"]
    assert sorted(path.name for path in folders[0].iterdir()) == [
        *("00-alpha-quality_1.png", "00-alpha-quality_2.png"),
        *("01-beta-quality_1.png", "01-beta-quality_2.png", "original.png"),
    ]


def test_pictures_are_found_as_the_callback_writes_them(tmp_path):
    x = torch.rand(1, 3, 40, 48)
    codec = PillowCodec("JPEG", quality=50)
    writer = Reconstructions(str(tmp_path))
    output = CodecOutput(
        [7], ["a b.c.webp"], x, 0.1, [Decoding(codec.points[0], x, 0.1, [10], [9])]
    )
    writer.on_test_batch_end(None, codec, output)
    with (tmp_path / "images.csv").open("w") as file:
        file.write("point,index,name,bpp,psnr-rgb\nquality=50,7,a b.c.webp,0.5,inf\n")
    # A series has its curve in a folder of its own.
    (tmp_path / "fast").mkdir()
    meta = {"points": ["quality=50"], "config": {"codec": {}}}
    curve = {"name": "jpeg fast", "meta": meta, "results": {"bpp": [0.5]}}
    (tmp_path / "fast" / "curve.json").write_text(json.dumps(curve))
    curves, _ = join(find_runs([str(tmp_path)]))
    (image,) = copy_pictures(curves, tmp_path / "out", 8)
    assert (image.name, image.width, image.height) == ("a b.c.webp", 48, 40)
    assert image.items[0]["psnr"] is None
    assert (tmp_path / "out" / image.items[0]["src"]).is_file()


def test_a_curve_cannot_end_the_page_s_script(compared):
    page = (compared / "index.html").read_text()
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert "<" not in data
    assert json.loads(data)["curves"][2]["label"] == "<Other> & Co"
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{outputs}/*/*/curve.json", "--anchor", "gamma"], "choose from 'alpha', 'beta'"),
        (["{outputs}/nothing/*.json"], "no curve.json matches"),
        ([], "nothing to compare"),
        (["{outputs}/alpha", "--by", "nothing"], "no run has a setting 'nothing'"),
        (["{outputs}/alpha/2026-01-01/images.csv"], "is not a curve"),
    ],
)
def test_errors_are_one_line(run_compare, outputs, tmp_path, arguments, message):
    arguments = [argument.format(outputs=outputs) for argument in arguments]
    done = run_compare(*arguments, "--output", str(tmp_path / "out"))
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_differs_is_compared_on_demand_and_marked(run_compare, outputs, tmp_path):
    curve = json.loads((outputs / "beta" / "2026-01-01" / "curve.json").read_text())
    curve["meta"] |= {"dataset": "kodak", "ceiling": {"psnr-rgb": 40.0}}
    (tmp_path / "kodak.json").write_text(json.dumps(curve))
    arguments = (str(outputs / "alpha"), f"K={tmp_path / 'kodak.json'}")
    options = ("--output", str(tmp_path / "out"), "--ceiling", f"alpha={outputs}/other.json")
    done = run_compare(*arguments, *options)
    assert "data set: photos (alpha) against kodak (K)" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run_compare(*arguments, *options, "--allow", "--by", "name", "--rate", "bpp-payload")
    assert done.returncode == 0, done.stderr
    assert "not like the others: data set: kodak" in done.stdout
    page = (tmp_path / "out" / "index.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["curves"][1]["label"] == "K [data set: kodak]"
    assert data["curves"][1]["points"][0]["rate"] == pytest.approx(0.24)
    assert [curve["ceiling"]["psnr-rgb"] for curve in data["curves"]] == [35.0, 40.0]
    assert "ceiling" in (tmp_path / "out" / "psnr-rgb.svg").read_text()


def test_data_sets_stand_side_by_side(run_compare, outputs, tmp_path):
    for source in outputs.glob("*/*/curve.json"):
        curve = json.loads(source.read_text())
        curve["meta"] |= {"dataset": "big photos"}
        curve["results"]["psnr-rgb"] = [2 * value for value in curve["results"]["psnr-rgb"]]
        target = tmp_path / "more" / source.parents[1].name
        target.mkdir(parents=True)
        (target / "curve.json").write_text(json.dumps(curve))
    files = (str(outputs / "*/*/curve.json"), str(tmp_path / "more"))
    done = run_compare(*files, "--by-dataset", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    for folder in ("photos", "big_photos"):
        assert (tmp_path / "out" / folder / "index.html").is_file()
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    gain = float(rows["beta"]["photos/bd_psnr-rgb"])
    assert float(rows["beta"]["big photos/bd_psnr-rgb"]) == pytest.approx(2 * gain)
    assert "--by-dataset compares" in run_compare(*files).stderr


def test_it_goes_back_to_wandb(run_compare, outputs, tmp_path):
    done = run_compare(
        str(outputs / "*/*/curve.json"), "--output", str(tmp_path), "--log", "papers"
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    keys, run = set(), None
    for record in read_records(path):
        run = record.run if record.HasField("run") else run
        if record.HasField("history"):
            keys |= {"/".join(item.nested_key) or item.key for item in record.history.item}
    assert (run.project, run.job_type) == ("papers", "comparison")
    for key in ("table", "curves", "page", "figures/overview"):
        assert any(name.startswith(key) for name in keys), (key, keys)


def test_nothing_heavy_is_imported(outputs, tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['compare', {str(outputs / 'alpha')!r}, '--output', {str(tmp_path)!r}]\n"
        "runpy.run_module('experiments.compare', run_name='__main__')\n"
        "heavy = {'torch', 'lightning', 'compressai', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_comparison_is_not_written_into_a_run(outputs, tmp_path):
    (curve, *_) = outputs.rglob("curve.json")
    options = parser().parse_args([str(curve), "--output", str(curve.parent)])
    with pytest.raises(ValueError, match="is a run folder"):
        compare(options)
