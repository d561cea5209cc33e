"""docs/papers.md: each command composes, asks for nothing unknown, and builds on stand-ins."""

import re
import shlex
from pathlib import Path

import pytest
from hydra.utils import instantiate

from experiments.build import build_codec
from experiments.cli import CONFIG_DIR, compose_config
from experiments.compare import parser
from experiments.downloads import find_source, needs_of
from experiments.run import warn_of_batch_size

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "papers.md"
COMMANDS = re.findall(r"^    python -m experiments\.(\w+) (.+)$", PAGE.read_text(), re.MULTILINE)
RUNS = [(module, line) for module, line in COMMANDS if module in ("run", "benchmark")]
FIGURES = {
    "PerCo": [
        *("Fig. 3", "Fig. 4", "Fig. 6", "Fig. 7", "Fig. 8", "Fig. 9", "Fig. 10", "Fig. 11"),
        *("Fig. 12", "Fig. 13", "Figs. 1, 5, 14, 15", "text and of codes", "Table 1", "Table 2"),
    ],
    "CDC": [
        *("Figs. 2, 16, 17, 18, 19", "Figs. 3 and 8 to 13", "Fig. 4", "Fig. 5", "Fig. 7"),
        *("Table 1", "Figs. 14, 15"),
    ],
    "Fast Training-free": [
        *("Sec. 4.2, Fig. 5", "IVC at its three budgets", "Fig. 2", "Fig. 4", "Figs. 3, 6, 7"),
        *("Table 1", "Table 2"),
    ],
}

# What takes the place of weights that are downloaded, by the class of the codec.
STAND_INS = {
    "diffcodec.perco.PerCo": ["codec/backbone=small", "codec.weights=null"],
    "diffcodec.cdc.CDC": ["codec.weights=null", "codec.width=8"],
    "diffcodec.diffc.DiffC": ["codec/backbone=small"],
    "diffcodec.ddcm.DDCM": ["codec/backbone=small"],
    "diffcodec.stablecodec.StableCodec": [
        *("codec/backbone=small", "codec.weights=null", "codec.elic_weights=null", "codec.M=16"),
        *("codec.widths=[24,16]", "codec.elic_N=8", "codec.elic_M=12"),
    ],
    "diffcodec.sdedit.SDEdit": ["codec/prior=small"],
    "diffcodec.base.compressai.CompressAICodec": ["codec.weights=null", "codec.quality=3"],
    "diffcodec.base.elic.Elic": ["codec.weights=null"],
    "diffcodec.base.hific.HiFiC": [
        *("codec.weights=null", "codec.width=4", "codec.M=8", "codec.N=8", "codec.blocks=1"),
    ],
    "diffcodec.base.illm.MsIllm": ["codec=jpeg"],
    "diffcodec.base.external.Vtm": ["codec=jpeg"],
    "diffcodec.base.external.Bpg": ["codec=jpeg"],
}
BASES = {
    "diffcodec.base.compressai.CompressAICodec": [
        "codec.base.weights=null",
        "codec.base.size=[8,12]",
    ],
    "diffcodec.base.elic.Elic": [
        *("codec.base.weights=null", "codec.base.N=12", "codec.base.M=144"),
        "codec.base.groups=[4,4,8,16,112]",
    ],
    "diffcodec.base.illm.MsIllm": ["codec/base=jpeg"],
    "diffcodec.base.external.Vtm": ["codec/base=jpeg"],
}
OF_OTHERS = ("codec.backbone.source", "codec.prior.", "codec.weights", "codec.config", "codec.size")


def overrides_of(line, folder):
    """The overrides of a command, each list of several runs by its first value."""
    words = [word for word in shlex.split(line) if word != "-m"]
    found = []
    for word in words:
        key, _, value = word.partition("=")
        value = re.sub(r"\b(DIR|FILE|FOLDER)\b", str(folder), value)
        if "," in value and not value.startswith("["):
            value = value.partition(",")[0]
        found.append(f"{key}={value}")
    return found


def tiny_unet(folder):
    """An unconditional diffusion model of pixels in diffusers' layout."""
    from diffusers import DDPMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    network.save_pretrained(folder / "unet")
    DDPMScheduler(num_train_timesteps=1000).save_pretrained(folder / "scheduler")
    return folder


def test_every_numbered_figure_and_table_is_there():
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    for paper, figures in FIGURES.items():
        (section,) = (text for text in sections if text.startswith(paper))
        headings = " ".join(re.findall(r"^\*\*(.+?)\*\*", section, re.MULTILINE))
        assert all(figure in headings for figure in figures), (paper, headings)


def test_every_recipe_of_a_paper_is_in_a_command():
    used = {word for _, line in COMMANDS for word in shlex.split(line)}
    recipes = {path.stem for path in (Path(CONFIG_DIR) / "experiment" / "paper").glob("*.yaml")}
    assert recipes <= {w.rpartition("/")[2] for w in used if w.startswith("experiment=paper/")}


def test_comparisons_are_command_lines():
    lines = [line for module, line in COMMANDS if module == "compare"]
    assert len(lines) >= 6
    for line in lines:
        assert parser().parse_args(shlex.split(line)).files


@pytest.mark.parametrize(("module", "line"), RUNS, ids=[line[:70] for _, line in RUNS])
def test_a_command_composes_and_asks_for_nothing_unknown(module, line, tmp_path):
    (tmp_path / "hyper_enc").mkdir()
    config = "benchmark" if module == "benchmark" else "config"
    cfg = compose_config(overrides_of(line, tmp_path), config)
    needs = needs_of(cfg)
    assert not [need for need in needs if need.state == "unknown"]
    hub = [n.location for n in needs if n.location.startswith("hf://")]
    assert all(find_source(location) for location in hub)


@pytest.mark.parametrize(("module", "line"), RUNS, ids=[line[:70] for _, line in RUNS])
def test_a_command_builds_on_stand_ins(module, line, tmp_path):
    config = "benchmark" if module == "benchmark" else "config"
    given = overrides_of(line, tmp_path)
    first = compose_config(given, config)
    target = first.codec._target_
    changes = list(STAND_INS[target])
    if target == "diffcodec.sdedit.SDEdit":
        changes += BASES[first.codec.base._target_]
        if first.codec.get("reference") is not None:
            changes += ["codec.reference.weights=null", "codec.reference.size=[8,12]"]
            changes.append("codec.reference.quality=3")
    if "codec=jpeg" in changes:
        given = [word for word in given if not word.startswith("codec")]
    if "codec/base=jpeg" in changes:
        given = [word for word in given if not word.startswith("codec.base")]
        given = [word for word in given if not word.startswith("codec/base")]
    given = [word for word in given if not word.startswith(OF_OTHERS)]
    if target == "diffcodec.perco.PerCo" and first.codec.hyper_encoder.get("M") == 320:
        changes += [  # sizes of the shipped U-Net
            "codec.hyper_encoder.N=40",
            "codec.hyper_encoder.M=48",
        ]
    if "codec/prior=small" in changes and first.codec.prior.consistency is None:
        changes.remove("codec/prior=small")
        changes.append(f"codec.prior.source={tiny_unet(tmp_path / 'unet')}")
    cfg = compose_config([*given, *changes], config)
    codec = build_codec(cfg)
    assert codec.points
    evaluation = instantiate(cfg.callbacks.evaluation, folder=None)
    assert evaluation.protocol == cfg.callbacks.evaluation.protocol
    datamodule = instantiate(cfg.datamodule)
    assert datamodule.name == cfg.datamodule.name
    assert datamodule._sources["test"] is not None


@pytest.mark.parametrize(
    ("line", "protocol"),
    [
        ("experiment=paper/perco_coco512", "clean"),
        ("experiment=paper/perco_coco256", "clean"),
        ("experiment=paper/cdc_x_rho0", "tiles"),
        ("experiment=paper/cdc_eps_rho0.9", "tiles"),
        ("experiment=paper/enhancer_bedroom", "whole"),
    ],
)
def test_each_paper_has_its_protocol(line, protocol):
    assert compose_config([line]).callbacks.evaluation.protocol == protocol


def test_cdc_has_the_papers_settings():
    cfg = compose_config(["experiment=paper/cdc_x_rho0.9"])
    assert (cfg.codec.steps, cfg.codec.gamma, cfg.codec.width) == (17, 0.8, 64)
    assert cfg.codec.weights.endswith("-b0.0512-x-cosine-01-float32-aux0.9lpips_2.pt")
    cfg = compose_config(["experiment=paper/cdc_eps_rho0", "codec.lmbda=0.0256"])
    assert (cfg.codec.steps, cfg.codec.prediction) == (500, "eps")
    assert "-b0.0256-" in cfg.codec.weights


@pytest.mark.parametrize(
    ("recipe", "options", "processes", "told"),
    [
        ("cdc/x_rho0", (), 1, ""),
        (
            "cdc/x_rho0",
            (),
            8,
            "uses 32 images (batch size 4, 8 processes, 1 accumulated batches), the paper uses 4",
        ),
        ("cdc/x_rho0", ("datamodule.batch_size=1",), 4, ""),
        ("cdc/x_rho0", ("datamodule.batch_size=1", "trainer.accumulate_grad_batches=4"), 1, ""),
        ("perco/paper", (), 8, ""),
        ("perco/paper", (), 1, "the paper uses 160"),
        ("perco/paper_lpips", (), 8, ""),
        ("cdc/small", (), 3, ""),
    ],
)
def test_another_batch_than_the_papers_is_warned_of(caplog, recipe, options, processes, told):
    warn_of_batch_size(compose_config([f"experiment={recipe}", *options]), processes)
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


def test_cdc_trains_in_float32_on_several_gpus_unless_asked_otherwise():
    overrides = ["experiment=cdc/x_rho0.9", "trainer=ddp"]
    assert compose_config(overrides).trainer.precision == "32-true"
    asked = compose_config([*overrides, "trainer.precision=bf16-mixed"])
    assert asked.trainer.precision == "bf16-mixed"
