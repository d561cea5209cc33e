"""A training that was killed goes on as if it had not been: the same weights, bit for bit."""

import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import Tensor

from callbacks.checkpoints import Checkpoints
from callbacks.evaluation import Evaluation
from datamodules.shards import Shards
from diffcodec.codec import Codec
from experiments.checkpoints import check_resumable
from experiments.cli import compose_config
from tests.test_contract import NAMES, OVERRIDES, UNAVAILABLE, VARIANTS
from tests.trainers import quiet_trainer

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_STEPS = 8
WITH_AVERAGE = {"perco", "cdc_jpeg"}  # as in their recipes


SMALL = {
    "perco": [
        *("codec.backbone.weights=null", "codec.backbone.unet_channels=[8,16]"),
        *("codec.rate=[16x16/16,64x64/64]", "codec.hyper_encoder.N=8", "codec.hyper_encoder.M=6"),
    ],
}


def build(name: str) -> LightningModule:
    overrides = [*VARIANTS.get(name, [f"codec={name}"]), *OVERRIDES.get(name, [])]
    overrides += SMALL.get(name, [])
    return instantiate(compose_config(overrides).codec)


def is_trained(name: str) -> bool:
    return name not in UNAVAILABLE and bool(build(name).trainable)  # type: ignore[arg-type]


class Keep(Callback):
    """Keeps the losses, and a copy of the checkpoint that is there after some step."""

    def __init__(self, folder: Path, step: int | None = None) -> None:
        self.folder, self.step = folder, step
        self.losses: dict[int, float] = {}

    def on_train_batch_start(self, trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            shutil.copy(self.folder / "last.ckpt", self.folder / "kept.ckpt")

    def on_train_batch_end(self, trainer, pl_module, outputs, *_: Any) -> None:
        self.losses[trainer.global_step] = float(outputs["loss"])


def train(
    module: LightningModule,
    datamodule: Any,
    folder: Path,
    *,
    keep: int | None = None,
    average: bool = False,
    **options,
) -> tuple[dict[str, Tensor], dict[int, float], list[Any]]:
    """Train; returns the weights at the end, the loss of every step and the optimizer's state."""
    ckpt_path = options.pop("ckpt_path", None)
    settings: dict[str, Any] = {
        **{"max_steps": NUM_STEPS, "gradient_clip_val": 1.0, "use_distributed_sampler": False},
        **{"enable_checkpointing": True, "num_sanity_val_steps": 0},
    }
    kept = Keep(folder, keep)
    callbacks = [kept, Checkpoints(str(folder), every_n_steps=1, every_minutes=None)]
    if isinstance(module, Codec):
        callbacks.append(Evaluation(metrics=["psnr-rgb"]))
    if average:
        callbacks.append(
            EMAWeightAveraging(decay=0.9, update_starting_at_step=2, use_buffers=False)
        )
    trainer = quiet_trainer(folder, callbacks=callbacks, **settings | options)
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    assert trainer.global_step == NUM_STEPS
    # Entropy tables follow from the weights, and are made when there is something to code.
    derived = module.derived_state() if isinstance(module, Codec) else set()
    state = {n: tensor.clone() for n, tensor in module.state_dict().items() if n not in derived}
    return state, kept.losses, [o.state_dict()["state"] for o in trainer.optimizers]


def assert_resumes_exactly(make, make_datamodule, folder: Path, step: int, **options: Any) -> None:
    seed_everything(0, verbose=False)
    module = make()
    whole, losses, optimizers = train(
        module, make_datamodule(), folder / "whole", keep=step, **options
    )
    kept = folder / "whole" / "kept.ckpt"
    seed_everything(1, verbose=False)  # all that matters is in the checkpoint, but the run's seed
    other = make()
    check_resumable(kept, other)
    seed_everything(0, verbose=False)
    torch.manual_seed(2)
    again, other_losses, other_optimizers = train(
        other, make_datamodule(), folder / "again", ckpt_path=kept, **options
    )
    for step_of, loss in other_losses.items():
        assert step_of == step or loss == losses[step_of]
    assert max(other_losses) == NUM_STEPS
    for name, tensor in whole.items():
        assert torch.equal(again[name], tensor), name
    for one, two in zip(optimizers, other_optimizers, strict=True):
        for key, values in one.items():
            for name, value in values.items():
                assert torch.equal(value, two[key][name]), (key, name)


QUICK = {"cdc", "mbt2018_mean_vbr", "perco", "cdc_jpeg"}
SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else SLOW) for n in NAMES])
def test_a_codec_killed_at_a_random_step_goes_on_exactly(name, make_datamodule, tmp_path):
    torch.manual_seed(0)
    if not is_trained(name):
        pytest.skip("is not trained")
    step = random.SystemRandom().randint(1, NUM_STEPS - 1)
    print("killed after step", step)
    average = name in WITH_AVERAGE
    assert_resumes_exactly(lambda: build(name), make_datamodule, tmp_path, step, average=average)


@pytest.mark.parametrize(
    "step", [pytest.param(s, marks=() if s == 3 else SLOW) for s in range(1, NUM_STEPS)]
)
def test_every_step_of_an_epoch_can_be_the_last_before_it_is_killed(
    step, make_datamodule, tmp_path
):
    assert_resumes_exactly(lambda: build("bmshj2018_hyperprior"), make_datamodule, tmp_path, step)


def test_what_workers_read_ahead_is_read_again(make_datamodule, tmp_path):
    def make_with_workers():
        return make_datamodule(num_workers=2, batch_size=1)

    assert_resumes_exactly(lambda: build("bmshj2018_hyperprior"), make_with_workers, tmp_path, 3)


def test_shards_are_read_on(crops, make_datamodule, tmp_path):
    for number in range(4):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for path in sorted(crops.iterdir()):
                tar.add(path, f"{number}{path.name}")

    def make_with_shards():
        shards = Shards(str(tmp_path), buffer=3)
        return make_datamodule(train=shards, samples_per_epoch=6, num_workers=2)

    assert_resumes_exactly(lambda: build("bmshj2018_hyperprior"), make_with_shards, tmp_path, 5)


def test_accumulated_gradients(make_datamodule, tmp_path):
    def make_with_small_batches():
        return make_datamodule(batch_size=1)

    assert_resumes_exactly(
        lambda: build("bmshj2018_hyperprior"),
        make_with_small_batches,
        tmp_path,
        random.SystemRandom().randint(1, NUM_STEPS - 1),
        accumulate_grad_batches=2,
    )


PARTS = {
    "sdedit/prior": ["part.network.channels=[8]", "part.network.layers=1", "part.sigmas=[0.1]"],
    "sdedit/consistency": [
        *("part.network.weights=null", "part.network.channels=[8]", "part.network.layers=1"),
        *("part.teacher.weights=null", "part.teacher.channels=[8]", "part.teacher.layers=1"),
        "part.sigmas=[0.1]",
    ],
    "perco/autoencoder": ["part.latents.channels=[8,8]"],
    "perco/backbone": ["part.backbone.unet_channels=[8,16]"],
    "perco/index_model": [
        *("part.codec.backbone.weights=null", "part.codec.backbone.unet_channels=[8,16]"),
        *(
            "part.codec.rate=[16x16/16,64x64/64]",
            "part.codec.hyper_encoder.N=8",
            "part.codec.hyper_encoder.M=6",
        ),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_part_goes_on_exactly(name, make_datamodule, tmp_path):
    def make() -> LightningModule:
        return instantiate(compose_config([f"experiment={name}", *PARTS[name]]).part)

    step = random.SystemRandom().randint(1, NUM_STEPS - 1)
    average = name not in ("perco/autoencoder", "perco/index_model")  # whose recipes have none
    assert_resumes_exactly(make, make_datamodule, tmp_path, step, average=average)
