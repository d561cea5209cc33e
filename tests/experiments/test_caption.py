import json

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from datamodules.annotations import read_captions
from experiments.caption import caption, main, parse_share
from experiments.cli import compose_config

COLORS = ("red", "green", "blue", "white", "black")


@pytest.fixture
def overrides(tmp_path):
    folder = tmp_path / "data" / "train"
    (folder / "sub").mkdir(parents=True)
    for i, color in enumerate(COLORS):
        Image.new("RGB", (20 + i, 30), color).save(folder / "sub" / f"{color}.png")
    return ["codec/captioner=palette", "datamodule=folder", f"datamodule.root={folder.parent}"]


def lines(folder) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open("rb")]


def test_images_are_captioned_once_and_read_by_the_file_captioner(overrides, tmp_path):
    out = tmp_path / "captions"
    assert caption(out, [*overrides, "datamodule.train.path=train"], batch_size=2) == 5
    captions = read_captions(out)
    assert len(captions) == 5
    red = next(name for name in captions if "red" in name)
    assert "red" in captions[red]
    before = lines(out)
    assert caption(out, [*overrides, "datamodule.train.path=train"]) == 0
    assert lines(out) == before
    cfg = compose_config(["codec=perco", "codec/captioner=file", f"codec.captioner.path={out}"])
    captioner = instantiate(cfg.codec.captioner, _convert_="all")
    assert captioner(torch.rand(1, 3, 8, 8), {"name": [red]}) == [captions[red]]


def test_what_was_killed_in_the_middle_of_a_line_goes_on(overrides, tmp_path):
    out = tmp_path / "captions"
    caption(out, overrides)
    (path,) = out.glob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 12])
    assert len(read_captions(out)) == 4
    assert caption(out, overrides) == 1
    assert len(read_captions(out)) == 5
    assert path.read_bytes() == whole[: len(whole) - 12]


def test_processes_share_the_images(overrides, tmp_path):
    out = tmp_path / "captions"
    counts = [caption(out, overrides, share=(k, 3)) for k in range(3)]
    assert counts == [2, 2, 1]
    assert len(read_captions(out)) == len(lines(out)) == 5


def test_a_broken_image_is_left_out_and_named(overrides, tmp_path, caplog):
    (tmp_path / "data" / "train" / "broken.png").write_bytes(b"no image")
    assert caption(tmp_path / "captions", overrides) == 5
    assert "broken.png" in caplog.text


def test_shares(monkeypatch):
    assert parse_share(None) == (0, 1)
    assert parse_share("1/4") == (1, 4)
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert parse_share(None) == (2, 8)
    for wrong in ("4/4", "1", "-1/2", "a/b"):
        with pytest.raises(ValueError, match="K/N"):
            parse_share(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["codec=perco", "x"], "comes first"),
        (["OUT", "codec=jpeg"], "no captioner"),
        (["OUT", "--split", "nope"], "unknown split 'nope'"),
        (["OUT", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["OUT", "codec/captioner=fixed"], "returned no caption for"),
    ],
)
def test_wrong_calls_are_refused(overrides, tmp_path, capsys, arguments, message):
    filled = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    own = [o for o in overrides if not any(a.startswith(o.split("=")[0]) for a in arguments)]
    if "codec=jpeg" in arguments:
        own = own[1:]
    with pytest.raises(SystemExit) as stop:
        main([*filled, *own])
    assert message in f"{stop.value} {capsys.readouterr().err}"
