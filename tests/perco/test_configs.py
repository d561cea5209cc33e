import ast
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

import diffcodec.latent
import diffcodec.perco
from diffcodec.latent.parts_training import AutoencoderTraining, TextToImageTraining
from experiments.build import build_codec, is_untrained
from experiments.cli import compose_config

TINY = (
    "codec.backbone.weights=null",
    "codec.backbone.latents.channels=[16,16]",
    "codec.backbone.unet_channels=[16,32]",
)


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("guidance", ["guidance=0", "guidance=1", "guidance=3", "guidance=6"]),
        ("steps", [f"steps={s}" for s in (1, 2, 5, 10, 20, 50)]),
        ("conditions", [f"condition={c}" for c in ("both", "text", "local")]),
        ("caption_swap", ["caption=null", "caption=", "caption=an old castle on a hill at sunset"]),
        ("diversity", [f"sample={i}" for i in range(4)]),
    ],
)
def test_the_ablations_are_points_of_one_model(name, points):
    codec = build_codec(compose_config([f"experiment=perco/{name}", "codec.rate=[8x8/16]", *TINY]))
    assert [p.name for p in codec.points] == [f"rate=8x8/16,{point}" for point in points]


def test_the_default_is_the_small_model_that_ships():
    cfg = compose_config(["codec=perco"])
    codec = build_codec(cfg)
    assert tuple(p.name for p in codec.points) == (
        *("rate=8x8/256", "rate=16x16/1024", "rate=32x32/256", "rate=64x64/256"),
    )
    assert not is_untrained(codec, cfg)


def test_other_rates_start_from_the_shipped_backbone_and_want_training():
    cfg = compose_config(["codec=perco", "codec.rate=[16x16/256]"])
    assert is_untrained(build_codec(cfg), cfg)


def test_the_paper_has_its_numbers():
    cfg = compose_config(["experiment=perco/paper"])
    codec = cfg.codec
    sizes, training = codec.hyper_encoder, codec.training
    assert (sizes.N, sizes.M, sizes.codebook_dim) == (192, 320, 32)
    assert (training.lr, training.weight_decay, training.warmup_steps) == (1e-4, 0.01, 10_000)
    assert (training.caption_drop, codec.guidance, codec.grid_steps) == (0.1, 3.0, 50)
    assert training.finetune == "linear"
    assert instantiate(codec.captioner).max_tokens == 32
    # Five epochs of nine million images.
    assert (8 * cfg.datamodule.batch_size, cfg.trainer.max_steps) == (160, 5 * 9_000_000 // 160)
    guided = compose_config(["experiment=perco/paper_guided"])
    training = guided.codec.training
    assert (training.local_drop, training.caption_drop) == (0.1, 0.1)
    assert guided.trainer.max_steps == cfg.trainer.max_steps
    lpips = compose_config(["experiment=perco/paper_lpips"])
    assert (8 * lpips.datamodule.batch_size, lpips.trainer.max_steps) == (40, 5 * 9_000_000 // 40)


PERCO_SD = {
    **{"spacing": "leading", "grid_steps": 1000, "sampler": "ddim", "guidance": 3.0},
    **{"text_coder": "zlib", "index_coder": "uniform"},
}
PERCO_SD_TRAINING = {
    **{"finetune": "all", "lr": 1e-5, "weight_decay": 0.01, "warmup_steps": 0, "anneal": False},
    **{"caption_drop": 0.1, "learned_null": False, "local_drop": 0.0},
    **{"commitment": 0.0, "lpips_weight": 0.0},
}


@pytest.mark.parametrize("first", ["codec=perco", "experiment=paper/perco_kodak"])
def test_perco_sd_has_its_own_settings(first):
    codec = compose_config([first, "codec/released=perco_sd"]).codec
    assert {key: codec[key] for key in PERCO_SD} == PERCO_SD
    assert {key: codec.training[key] for key in PERCO_SD_TRAINING} == PERCO_SD_TRAINING
    assert codec.captioner.model == "hf://Salesforce/blip2-opt-2.7b-coco"
    assert instantiate(codec.captioner).max_tokens == 32
    # Another captioner can be asked for, and without the preset it is the paper's.
    fixed = compose_config([first, "codec/released=perco_sd", "codec/captioner=fixed"]).codec
    assert fixed.captioner._target_.endswith("FixedCaptioner")
    assert fixed.spacing == "leading"


def test_the_papers_figures_have_the_papers_captioner():
    codec = compose_config(["experiment=paper/perco_kodak"]).codec
    assert codec.captioner.model.startswith("hf://Salesforce/blip2-opt-2.7b@")
    assert not {"spacing", "grid_steps"} & set(codec)


def test_perco_sd_is_trained_as_its_command_says():
    cfg = compose_config(["experiment=perco/perco_sd", "trainer=ddp"])
    assert {key: cfg.codec[key] for key in PERCO_SD} == PERCO_SD
    training = cfg.codec.training
    assert {key: training[key] for key in PERCO_SD_TRAINING} == PERCO_SD_TRAINING
    assert (8 * cfg.datamodule.batch_size, cfg.trainer.max_steps) == (160, 50_000)
    assert (cfg.trainer.precision, cfg.trainer.gradient_clip_val) == ("32-true", 1.0)
    transform = instantiate(cfg.datamodule.train_transform)
    assert transform(Image.new("RGB", (700, 600))).size == (512, 512)


@pytest.mark.parametrize("name", ["palette", "fixed", "file", "blip2", "blip2_coco"])
def test_every_captioner_is_built_without_its_model(name):
    cfg = compose_config(["codec=perco", f"codec/captioner={name}"])
    assert callable(instantiate(cfg.codec.captioner))


@pytest.mark.parametrize("name", ["sd21", "sd15"])
def test_stable_diffusion_is_one_override(name):
    cfg = compose_config(["codec=perco", f"codec/backbone={name}", "codec.backbone.source=x"])
    assert OmegaConf.to_container(cfg.codec.backbone) == {
        "_target_": "diffcodec.perco.released.stable_diffusion",
        "source": "x",
    }


def test_the_small_one_goes_through_three_recipes():
    first, second, third = (
        compose_config([f"experiment=perco/{name}"])
        for name in ("autoencoder", "backbone", "small")
    )
    assert isinstance(instantiate(first.part), AutoencoderTraining)
    assert isinstance(instantiate(second.part), TextToImageTraining)
    assert "codec" not in first
    assert "codec" not in second
    assert "part" not in third
    assert third.trainer.max_steps == 3500


HEAVY = {"diffusers", "transformers", "compressai", "lpips", "vector_quantize_pytorch"}


def imports_of(body) -> set[str]:
    """Packages that statements import when the module is, not only when type-checked."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_importing_it_imports_no_model_library():
    folders = (Path(package.__file__).parent for package in (diffcodec.perco, diffcodec.latent))
    for path in (path for folder in folders for path in folder.glob("*.py")):
        assert not imports_of(ast.parse(path.read_text()).body) & HEAVY, path.name
