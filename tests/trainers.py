from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """A trainer on the CPU that prints and saves nothing."""
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    settings: dict[str, Any] = {"accelerator": "cpu", "default_root_dir": folder, **quiet}
    return Trainer(**settings | options)
