"""Writing what was trained as a folder that `diffcodec.load` and `weights=` take."""

import logging
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from diffcodec.weights.configuration import config_of
from diffcodec.weights.model_folder import save_model, saved_state

log = logging.getLogger(__name__)

FOLDER = "model"


class ExportModel(Callback):
    """After training, write `config.json` and `model.safetensors` to `model/` in the run's folder.

    They are of the codec that was trained, or of the `product` of what trains a part.

    Args:
        dtype: `float16` halves the file; loading widens it again.

    Raises:
        ValueError: an unknown dtype; before the first step: the module cannot be written.
    """

    def __init__(self, dtype: str = "float16") -> None:
        if dtype not in ("float16", "bfloat16", "float32"):
            raise ValueError(f"unknown dtype {dtype!r}, choose from float16, bfloat16, float32")
        self.dtype = getattr(torch, dtype)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        try:
            config_of(_product(pl_module))
        except ValueError as error:
            raise ValueError(
                f"{error}; pass callbacks.export=null to train without export"
            ) from error

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / FOLDER
        try:
            # On all processes: where parameters are sharded, they gather them together.
            state = saved_state(_product(pl_module))
            if trainer.is_global_zero:
                save_model(_product(pl_module), folder, dtype=self.dtype, state=state)
        except Exception:  # whatever it is, it must not cost the training that is over
            log.exception("could not write %s; the trained weights are in the checkpoint", folder)


def _product(module: LightningModule) -> nn.Module:
    product: nn.Module = getattr(module, "product", module)
    return product
