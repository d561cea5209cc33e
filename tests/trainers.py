from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer

from diffcodec.codec import Codec
from diffcodec.measuring import MeasuringPass


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """A trainer on the CPU that prints and saves nothing."""
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    settings: dict[str, Any] = {"accelerator": "cpu", "default_root_dir": folder, **quiet}
    return Trainer(**settings | options)


def measure(trainer: Trainer, codec: Codec, data: Any, **options: Any) -> MeasuringPass:
    """One pass over a datamodule or a loader, with `points` and `ceiling` of the pass."""
    measuring = MeasuringPass(codec, **options)
    key = "datamodule" if isinstance(data, LightningDataModule) else "dataloaders"
    trainer.test(measuring, verbose=False, **{key: data})
    return measuring
