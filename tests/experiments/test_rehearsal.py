"""A dress rehearsal of docs/papers.md: recipes run end to end on tiny networks and a few images.

They run offline, and leave their figure or table.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.metrics.tiny import save_clip, save_inception, save_segformer

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PERCO = ("codec/backbone=small", "codec/captioner=palette", "codec.rate=[8x8/256,16x16/1024]")
CDC = ("codec.weights=cdc", "codec.width=null", "codec.lmbda=0.01")
SDEDIT = ("codec/prior=small", "codec/base=mbt2018_mean_vbr", "codec.strength=0.1")


def command(module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'codecs'}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a recipe of the papers with overrides; its folder."""

    def running(recipe, *overrides):
        folder = tmp_path_factory.mktemp(recipe)
        command(
            "run",
            f"experiment=paper/{recipe}",
            *("logger=none", "callbacks.progress=null", f"hydra.run.dir={folder}"),
            *overrides,
        )
        return folder

    return running


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Stand-ins for the networks of metrics."""
    root = tmp_path_factory.mktemp("networks")
    key = "callbacks.evaluation.weights"
    return {
        "inception": f"{key}.inception={save_inception(root / 'inception.pth')}",
        "clip": f"+{key}.clip_score={save_clip(root / 'clip')}",
        "miou": f"+{key}.miou={save_segformer(root / 'segformer', 171)}",
    }


def photographs(folder, count, side, suffix):
    folder.mkdir(parents=True)
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    for i in range(count):
        pixels = sources[i % len(sources)][40 * (i // 4) :][:side, 90 : 90 + side]
        Image.fromarray(pixels).save(folder / f"{i + 1:012d}.{suffix}")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """COCO's train2017 in miniature, with captions and label maps: the overrides that take it."""
    root = tmp_path_factory.mktemp("coco")
    photographs(root / "train2017", 3, 128, "jpg")
    (root / "annotations").mkdir()
    (root / "stuffthingmaps" / "train2017").mkdir(parents=True)
    images, captions = [], []
    for i in range(3):
        images.append({"id": i, "file_name": f"{i + 1:012d}.jpg"})
        captions += [{"image_id": i, "caption": f"a {c} on the grass"} for c in ("dog", "cat")]
        labels = np.full((128, 128), 89 if i else 0, np.uint8)
        labels[64:] = 255
        Image.fromarray(labels).save(root / "stuffthingmaps" / "train2017" / f"{i + 1:012d}.png")
    annotated = {"images": images, "annotations": captions}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(annotated))
    return [
        *(
            f"datamodule.root={root}",
            "datamodule.test.names=null",
            "datamodule.eval_transform=null",
        ),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small photographs, and the overrides that take them in place of a data set."""
    root = tmp_path_factory.mktemp("photographs")
    photographs(root / "images", 2, 256, "png")
    return [*("datamodule=folder", f"datamodule.root={root}", "datamodule.test.path=images")]


def curves(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("curve.json"))]


def test_perco_fig_3(run, networks, coco, tmp_path):
    folder = run("perco_coco512", *PERCO, *coco, *networks.values())
    (curve,) = curves(folder)
    assert {"fid", "kid", "clip_score", "miou", "psnr-rgb"} <= set(curve["results"])
    assert curve["meta"]["protocol"] == "clean"
    assert curve["meta"]["num_patches"] == 3
    # The autoencoder's row of Table 1.
    assert {"fid", "clip_score", "miou"} <= set(curve["meta"]["ceiling"])
    assert (folder / "reconstructions" / "ceiling").is_dir()
    with (folder / "images.csv").open() as file:
        assert all(row["clip_score"] for row in csv.DictReader(file))
    command("compare", str(folder), "--output", str(tmp_path))
    assert (tmp_path / "clip_score.png").is_file()


def test_perco_table_1(run, networks, coco, tmp_path):
    folder = run("perco_table1", *PERCO, "codec.steps=2", *coco, *networks.values())
    found = curves(folder)
    assert len(found) == 4  # two scales, two forms
    command("compare", str(folder), "--output", str(tmp_path))
    assert "guided=text_and_codes" in (tmp_path / "table.md").read_text()


def test_perco_fig_8(run, networks, coco, tmp_path):
    folder = run("perco_fig8", *PERCO, "codec.steps=[1,2,4]", *coco, *networks.values())
    command("compare", str(folder), "--x", "steps", "--output", str(tmp_path))
    text = (tmp_path / "over_steps.svg").read_text()
    assert "rate=8x8/256" in text
    assert "CLIP" in text


def test_cdc_fig_4(run, networks, folder, tmp_path):
    made = run("cdc_fig4", *CDC, "codec.steps=[1,2,4]", *folder, networks["inception"])
    assert all(curve["meta"]["protocol"] == "tiles" for curve in curves(made))
    command("compare", str(made), "--x", "steps", "--output", str(tmp_path))
    assert "gamma=1" in (tmp_path / "over_steps.svg").read_text()


def test_cdc_fig_5(run, folder):
    made = run("cdc_fig5", *CDC, "codec.steps=2", *folder)
    rates = {curve["results"]["bpp"][0] for curve in curves(made)}
    assert len(curves(made)) == 4
    assert len(rates) == 1
    assert (made / "reconstructions" / "sheet.png").is_file()


def test_cdc_fig_7(folder, tmp_path):
    """A training for each rho, measured when it is over: without LPIPS, whose VGG is a download."""
    small = [*("codec.width=4", "trainer=cpu", "logger=none", "callbacks.progress=null")]
    evaluate = " ".join(["experiment=paper/cdc_x_rho0", *folder, "codec.steps=2", "trainer=cpu"])
    for lmbda in ("0.0032", "0.0128"):
        command(
            *("agent", "experiment=cdc/x_rho0", f"codec.lmbda={lmbda}", "codec.rho=0", *small),
            *("trainer.max_steps=2", "codec.warmup_steps=0", "callbacks.average=null", *folder),
            "datamodule.train.path=images",
            f"evaluate={evaluate} 'callbacks.evaluation.metrics=[psnr-rgb,fd_random]'",
            f"hydra.run.dir={tmp_path / lmbda}",
        )
    made = sorted(tmp_path.glob("*/paper_cdc_x_rho0/curve.json"))
    assert len(made) == 2
    output = tmp_path / "comparison"
    command("compare", *map(str, made), "--by", "rho", "--output", str(output))
    assert (output / "overview.png").is_file()


def test_cdc_figs_14_and_15(run, folder):
    for recipe, count in (("cdc_fig14", 4), ("cdc_fig15", 10)):
        made = run(recipe, *CDC, "codec.steps=4", *folder)
        assert len(curves(made)) == count
        assert (made / "reconstructions" / "sheet.png").is_file()


@pytest.fixture(scope="module")
def bedrooms(tmp_path_factory):
    """LSUN bedrooms in miniature: two that are tested, two beyond them."""
    root = tmp_path_factory.mktemp("lsun")
    photographs(root / "bedroom", 4, 64, "webp")
    return [
        *(f"datamodule.root={root}", "datamodule.test.limit=2", "datamodule.eval_transform=null"),
    ]


def test_the_enhancers_table(run, networks, bedrooms, tmp_path):
    options = ("codec.preset.slow.steps=3", *bedrooms, networks["inception"])
    made = run("enhancer_bedroom", *SDEDIT, *options)
    assert {curve["name"].split()[-1] for curve in curves(made)} == {
        *("fast", "medium", "slow", "base"),
    }
    command(
        *("compare", str(made), "--anchor", "enhancer base", "--output", str(tmp_path)),
    )
    table = (tmp_path / "table.md").read_text()
    assert "BD-FID" in table
    assert "BD-PSNR" in table


def test_the_enhancers_fig_2(run, networks, bedrooms, tmp_path):
    fewer = [
        *(f"codec.preset.{name}.steps={n}" for name, n in (("sde50", 4), ("sde100", 5))),
        *(f"codec.preset.{name}.steps={n}" for name, n in (("dps20", 2), ("dps50", 3))),
        *("codec.preset.dps100.steps=4", "codec.preset.ode50.steps=6"),
    ]
    options = ("codec.base.level=[3]", *fewer, *bedrooms, networks["inception"])
    made = run("enhancer_fig2", *SDEDIT, *options)
    command(
        *("compare", str(made), "--x", "decoding_time", "--by", "solver"),
        *("--output", str(tmp_path)),
    )
    text = (tmp_path / "over_decoding_time.svg").read_text()
    assert all(f"solver={name}" in text for name in ("consistency", "dpmpp_2m", "euler_sde"))
