"""Measure a codec at every operating point, optionally after training; or train a part of one.

    python -m experiments.run codec=… datamodule=… [key=value …]
    python -m experiments.run -m codec=jpeg,webp,avif …
    python -m experiments.run experiment=sdedit/prior …
    python -m experiments.run experiment=cdc/small … ckpt_path=last

The second command runs each codec and prints a table. The third trains a part of a codec (`part`),
which is only validated. The last resumes a training; evaluations resume by the same command.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffcodec.points import find_points, group_by_bytes
from experiments.build import (
    build_codec,
    fix_threads,
    is_sharded,
    load_trained,
    refuse_untrained,
    refuse_untrained_parts,
)
from experiments.checkpoints import check_resumable, find_checkpoint
from experiments.cli import (
    CONFIG_DIR,
    CONFIG_NAME,
    HYDRA_VERSION,
    prepare_command_line,
    quiet_libraries,
    reports_errors,
)
from experiments.multirun import needs_own_process, run_in_own_process
from experiments.run_folder import start

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    from diffcodec.codec import Codec


log = logging.getLogger(__name__)

OF_CODECS = ("evaluation", "curves", "reconstructions")  # callbacks that need bytes


def train_part(cfg: DictConfig) -> None:
    """Fit and validate a part of a codec, and write its checkpoint and weights."""
    import torch
    from hydra.utils import instantiate
    from lightning.pytorch import LightningModule, seed_everything

    from experiments.report import report

    quiet_libraries()
    seed_everything(cfg.seed, workers=True, verbose=False)
    fix_threads(cfg.threads)
    part: LightningModule = instantiate(cfg.part)
    if cfg.channels_last:
        part.to(memory_format=torch.channels_last)
    trainer, datamodule = _set_up(part, cfg, without=OF_CODECS)
    if cfg.fit:
        _fit(trainer, part, datamodule, cfg.ckpt_path)
    elif cfg.ckpt_path:
        load_trained(part, cfg.ckpt_path)
    trainer.validate(part, datamodule=datamodule)
    report(trainer)


def run(cfg: DictConfig) -> None:
    """Fit (with `fit=true`), test at every operating point, report.

    Raises:
        ValueError: a setting is wrong, there is nothing to train, or the codec to measure has no
            trained weights.
    """
    from hydra.utils import instantiate
    from lightning.pytorch import seed_everything

    from callbacks.evaluation import find_evaluation
    from diffcodec.measuring import MeasuringPass
    from experiments.report import report

    quiet_libraries()
    seed_everything(cfg.seed, workers=True, verbose=False)
    codec = build_codec(cfg)
    points = find_points(codec.points, cfg.point)
    if not cfg.fit:
        refuse_untrained(codec, cfg)
    elif not codec.trainable:
        raise ValueError(f"{type(codec).__name__} has nothing to train: remove fit=true")
    else:
        refuse_untrained_parts(codec, cfg)
    _check_sharding(codec, cfg)
    # The trained module: the codec, or a module that trains it in another way.
    learner: LightningModule = instantiate(cfg.part)(codec) if cfg.get("part") else codec
    codec.save_hyperparameters(OmegaConf.to_container(cfg, resolve=True))
    trainer, datamodule = _set_up(learner, cfg)
    if cfg.fit:
        if trainer.is_global_zero:
            warn_of_batch_size(cfg, trainer.world_size)
        _fit(trainer, learner, datamodule, cfg.ckpt_path)
        if is_sharded(cfg):
            report(trainer)
            return
    elif cfg.ckpt_path:
        load_trained(learner, cfg.ckpt_path)

    # Images are encoded once for all points that share their bytes or a prefix of them.
    passes = group_by_bytes(points, progressive=codec.progressive)
    for shared in passes:
        measuring = MeasuringPass(codec, shared, ceiling=shared is passes[-1])
        trainer.test(measuring, datamodule=datamodule, verbose=False)
    evaluation = find_evaluation(trainer)
    if evaluation is not None and trainer.is_global_zero:
        evaluation.finish()
    report(trainer)


def _check_sharding(codec: "Codec", cfg: DictConfig) -> None:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.utilities.model_helpers import is_overridden

    if not is_sharded(cfg):
        return
    if not is_overridden("configure_model", codec, LightningModule):
        raise ValueError(
            f"trainer=fsdp shards PerCo's backbone, which {type(codec).__name__} does not have: "
            "choose trainer=ddp"
        )
    if not cfg.fit:
        raise ValueError(
            "trainer=fsdp is for training only; measure with trainer=gpu or trainer=ddp"
        )
    if cfg.callbacks.get("average"):
        raise ValueError(
            "callbacks.average keeps a full copy of the weights in every process, which "
            "trainer=fsdp avoids: pass callbacks.average=null"
        )


def warn_of_batch_size(cfg: DictConfig, world_size: int) -> None:
    """Warn if the batch size over all processes is not the paper's."""
    wanted, accumulated = cfg.get("paper_batch_size"), cfg.trainer.accumulate_grad_batches
    found = cfg.datamodule.batch_size * world_size * accumulated
    if wanted is not None and found != wanted:
        log.warning(
            "a training step uses %d images (batch size %d, %d processes, %d accumulated batches), "
            "the paper uses %d: set datamodule.batch_size or trainer.accumulate_grad_batches",
            *(found, cfg.datamodule.batch_size, world_size, accumulated, wanted),
        )


def _set_up(
    module: "LightningModule", cfg: DictConfig, without: Sequence[str] = ()
) -> "tuple[Trainer, LightningDataModule]":
    """The config's trainer with all callbacks except the named ones, and its datamodule."""
    from hydra.utils import instantiate

    module.save_hyperparameters(OmegaConf.to_container(cfg, resolve=True))
    chosen = [c for name, c in cfg.callbacks.items() if c and name not in without]
    callbacks, logger = [instantiate(callback) for callback in chosen], instantiate(cfg.logger)
    return instantiate(cfg.trainer, logger=logger, callbacks=callbacks), instantiate(cfg.datamodule)


def _fit(
    trainer: "Trainer",
    module: "LightningModule",
    datamodule: "LightningDataModule",
    ckpt_path: str | None,
) -> None:
    _check_average(trainer)
    _check_warm_up(trainer, module)
    checkpoint = find_checkpoint(ckpt_path, Path(trainer.default_root_dir))
    if checkpoint is not None:
        check_resumable(checkpoint, module)
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)


def _check_warm_up(trainer: "Trainer", module: "LightningModule") -> None:
    """Refuse a training that ends while the learning rate still rises."""
    warmup_steps = getattr(getattr(module, "recipe", module), "warmup_steps", 0)
    if 0 < trainer.max_steps < warmup_steps:
        of_codec = "codec.training" if hasattr(module, "recipe") else "codec"
        key = "part" if hasattr(module, "product") else of_codec
        raise ValueError(
            f"trainer.max_steps={trainer.max_steps} ends inside the warm-up of "
            f"{warmup_steps} steps: raise it, or lower {key}.warmup_steps"
        )


def _check_average(trainer: "Trainer") -> None:
    """Refuse a training that ends before weight averaging starts."""
    from lightning.pytorch.callbacks import EMAWeightAveraging

    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, EMAWeightAveraging):
            continue
        first = callback.update_starting_at_step or 0
        if 0 <= trainer.max_steps <= first:
            raise ValueError(
                f"trainer.max_steps={trainer.max_steps} ends before weight averaging starts at "
                f"callbacks.average.update_starting_at_step={first}: pass a smaller number or "
                "callbacks.average=null"
            )


@hydra.main(config_path=CONFIG_DIR, config_name=CONFIG_NAME, version_base=HYDRA_VERSION)
@reports_errors
def main(cfg: DictConfig) -> Any:
    """Entry point of `python -m experiments.run`."""
    if needs_own_process(cfg):
        run_in_own_process()
        return
    start(Path(HydraConfig.get().runtime.output_dir))
    if cfg.get("part") and cfg.get("codec") is None:
        train_part(cfg)
    else:
        run(cfg)


if __name__ == "__main__":
    prepare_command_line()
    main()
