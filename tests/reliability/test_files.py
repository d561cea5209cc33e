"""Files from anywhere: curves, captions, lists, shards, configs and checkpoints.

Whatever they hold, they end in the documented error or are of use.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diffcodec
from datamodules.annotations import read_captions, read_names
from datamodules.files import ImageReadError, decode_rgb
from datamodules.index_file import read_index
from datamodules.shards import ShardImage, read_shard
from diffcodec.points import combine
from diffcodec.results.curves import Curve, read_json, safe_name, write_json
from diffcodec.weights.loading import read_checkpoint
from experiments.comparison.compatibility import check
from experiments.comparison.html_page import page_data, write_page
from experiments.comparison.lines import join
from experiments.comparison.render import to_rich
from experiments.comparison.runs import read_file
from experiments.comparison.table import build_table
from experiments.file_commands import read_codec_file
from tests.reliability.mutation import mutated

COUNTS = [pytest.param(200, 0), pytest.param(10_000, 1, marks=pytest.mark.slow)]
FEW = [pytest.param(40, 0), pytest.param(1000, 1, marks=pytest.mark.slow)]

ODD: list[Any] = [
    *(None, True, 0, -1, 3.5, 10**400, 1e308, float("nan"), float("inf")),
    *("", "..", "../../x", "</script><script>alert(1)</script>", "[red]x[/]", r"$\frac$", "a\x00b"),
    *("\ud800", "x" * 5000, [], {}, [[]], {"a": {"b": 1}}, ["a", 1], {"": ""}),
]


def changed(tree: Any, rng: random.Random) -> Any:
    """A JSON tree with one node replaced, removed or repeated."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(list(tree))
        kind = rng.randrange(8)
        if kind == 0:
            return {k: v for k, v in tree.items() if k != key}
        if kind == 1:
            return {**tree, str(rng.choice(ODD))[:50]: rng.choice(ODD)}
        return {**tree, key: changed(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        at = rng.randrange(len(tree))
        kind = rng.randrange(6)
        if kind == 0:
            return tree[:at] + tree[at + 1 :]
        if kind == 1:
            return [*tree, tree[at]]
        return [*tree[:at], changed(tree[at], rng), *tree[at + 1 :]]
    return rng.choice(ODD)


def wrong_json(tree: Any, rng: random.Random) -> bytes:
    """A JSON file with a few nodes changed, and sometimes bytes."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        tree = changed(tree, rng)
    data = json.dumps(tree).encode()
    return mutated(data, rng) if rng.random() < 0.2 else data


def a_curve() -> dict[str, Any]:
    metrics = tuple(
        {
            "bpp": 0.1 * i,
            "psnr-rgb": 28.0 + i,
            "lpips": 0.5 / i,
            "fid": 50.0 / i,
            "decoding_time": 1,
        }
        for i in range(1, 5)
    )
    meta = {
        **{"dataset": "kodak", "num_images": 24, "num_skipped": 1, "skipped": ["a.png"]},
        **{"sizes": ["512x768"], "fid": "256x256 patches", "num_patches": 192},
        **{"variants": {"lpips": "alex"}, "ceiling": {"psnr-rgb": 40.0}, "num_parameters": 5},
        **{"rate": "bpp: whole file, header included", "device": "cpu"},
        "config": {
            **{"name": "cdc", "fit": True, "seed": 0, "codec": {"_target_": "x", "gamma": [0, 1]}},
            **{"trainer": {"max_steps": 3}, "callbacks": {"evaluation": {"lpips": "alex"}}},
        },
    }
    points = combine(rate={"lmbda": [1, 2, 3, 4]}, decoding={"gamma": 0.8})
    return Curve("cdc", points, metrics, meta, "text").to_json()


def attempt(read: Callable[[Path], Any], path: Path) -> Any:
    """What is read, or None where it is refused in one line that names the file."""
    refusal = None
    try:
        return read(path)
    except ValueError as error:
        refusal = str(error)
    assert str(path) in refusal
    assert "\n" not in refusal.partition(str(path))[2][:80]
    return None


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_curves(tmp_path, count, seed):
    rng = random.Random(seed)
    good, wrong = tmp_path / "good" / "curve.json", tmp_path / "wrong" / "curve.json"
    for path in (good, wrong):
        path.parent.mkdir()
    write_json(a_curve(), good)
    others = [read_file(good, "other")]
    ends = {"refused": 0, "compared": 0}
    for _ in range(count):
        wrong.write_bytes(wrong_json(a_curve(), rng))
        run = attempt(read_file, wrong)
        if run is None:
            ends["refused"] += 1
            continue
        curves = check(join([*others, run])[0], allow=True)
        table = build_table(curves, curves[0])
        to_rich(table)
        page = json.dumps(page_data(curves, table, [], "bpp"), allow_nan=False)
        assert len(page) < 1 << 20
        ends["compared"] += 1
    assert min(ends.values()) > count / 10, ends


def test_names_cannot_leave_a_script_or_a_folder(tmp_path):
    from xml.sax.saxutils import unescape

    data = a_curve()
    data["name"] = data["meta"]["config"]["name"] = "</script><script>alert(1)</script>"
    (tmp_path / "curve.json").write_text(json.dumps(data))
    curves = check(join([read_file(tmp_path / "curve.json")])[0])
    write_page(tmp_path / "index.html", curves, build_table(curves, curves[0]), [])
    page = (tmp_path / "index.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in unescape(page.replace("\\u003c", "&bracket;"))


@pytest.mark.parametrize("name", ["..", ".", "../../etc/passwd", "/etc/passwd", ".hidden", "a/b"])
def test_safe_names_stay_in_their_folder(tmp_path, name):
    path = tmp_path / safe_name(name)
    assert path.resolve().parent == tmp_path.resolve()
    assert not path.name.startswith(".")


def test_long_names_are_cut_as_file_systems_need_it(tmp_path):
    (tmp_path / f"{safe_name('ü' * 5000)}.png").touch()


def test_files_that_are_too_large_or_too_deep_are_refused(tmp_path):
    path = tmp_path / "curve.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deep"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than 64 MiB"):
        read_json(path)


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_captions(tmp_path, count, seed):
    rng = random.Random(seed)
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "caption": "A dog."}, {"image_id": 2, "caption": "b"}],
    }
    path = tmp_path / "captions.json"
    for _ in range(count):
        path.write_bytes(wrong_json(rng.choice((coco, {"a.jpg": "A dog.", "b.jpg": "b"})), rng))
        captions = attempt(read_captions, path) or {}
        assert all(isinstance(text, str) for pair in captions.items() for text in pair)


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_lists_of_names(tmp_path, count, seed):
    rng = random.Random(seed)
    path = tmp_path / "names.txt"
    for _ in range(count):
        path.write_bytes(mutated(b"val/0001.png\n0002\n\n0003.jpg\n", rng))
        names = attempt(read_names, path)
        assert names is None or len(set(names)) == len(names) > 0


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_indices_of_images(tmp_path, count, seed):
    rng = random.Random(seed)
    path, lines = tmp_path / "index.txt", b"a/0.jpg\t768\t1024\nb.png\nc/\xc3\xbc.jpg\t5\t6\n"
    whole = [lines, *(module.compress(lines) for module in (gzip, bz2, lzma))]
    ends = {"refused": 0, "read": 0}
    for _ in range(count):
        # Hardly any compressed list can be read once it is changed: most are plain.
        path.write_bytes(mutated(rng.choice((lines, rng.choice(whole))), rng))
        index = attempt(read_index, path)
        ends["refused" if index is None else "read"] += 1
        for name, size in index or ():
            assert (tmp_path / name).resolve().is_relative_to(tmp_path.resolve())
            assert size is None or min(size) > 0
    assert min(ends.values()) > count / 10, ends


def a_shard(form: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as tar:
        for name, content in (
            *(("set/0.png", b"p" * 700), ("set/0.txt", b"A dog.")),
            *(("ü" * 90 + "/1.jpg", b"q" * 300), ("2.webp", b"r")),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_shards(tmp_path, count, seed):
    rng = random.Random(seed)
    path = tmp_path / "0.tar"
    whole = [a_shard(form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
    ends = {"refused": 0, "read": 0}
    for _ in range(count):
        data = rng.choice(whole)
        # Most of a tar file is zeros: half of the time it is a header that is changed.
        at = 512 * rng.randrange(len(data) // 512)
        headers = data[:at] + mutated(data[at : at + 160], rng) + data[at + 160 :]
        path.write_bytes(rng.choice((mutated(data, rng), headers)))
        images = attempt(_images_of, path)
        ends["refused" if images is None else "read"] += 1
        for image in images or ():
            assert image.name.isprintable()
            assert len(image.data) <= len(data) + 1024
            with pytest.raises(ImageReadError):  # these are none
                decode_rgb(image.data, image.name)
    assert min(ends.values()) > count / 50, ends


def _images_of(path: Path) -> list[ShardImage]:
    return list(read_shard(str(path)))


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_checkpoints(tmp_path, count, seed):
    rng = random.Random(seed)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.ones(8)}, "loops": {"a": [1, "b"]}}, path)
    whole = path.read_bytes()
    for _ in range(count):
        path.write_bytes(mutated(whole, rng))
        checkpoint = attempt(read_checkpoint, path)
        assert checkpoint is None or isinstance(checkpoint, dict)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Any]:
    folder = diffcodec.load("mbt2018_mean_vbr").save(tmp_path_factory.mktemp("saved"))
    return {"config": json.loads((folder / "config.json").read_text()), "folder": folder}


@pytest.mark.parametrize(("count", "seed"), FEW)
def test_configs_beside_weights(saved, count, seed):
    rng = random.Random(seed)
    path: Path = saved["folder"] / "config.json"
    for _ in range(count):
        config = saved["config"]
        for _ in range(rng.choice((1, 1, 2))):
            config = changed(config, rng)
        path.write_text(json.dumps(config))
        with contextlib.suppress(ValueError):
            diffcodec.load(str(saved["folder"]))


@pytest.mark.parametrize(
    "content",
    [
        *("", "3", "overrides: 3", "overrides: [3]", "a: [", "!!python/object/apply:os.system [x]"),
        *("overrides: ['codec=nothing']", "overrides: ['+codec._target_=os.system']", "\x00"),
        *("overrides: ['codec._target_=os.system']", "overrides: ['codec=']", "overrides: ['=']"),
        "[" * 5000,
        "overrides: ['codec={_target_: subprocess.run}']",
    ],
)
def test_codec_files_of_streams(tmp_path, content):
    path = tmp_path / "codec.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"."):
        read_codec_file(path)
