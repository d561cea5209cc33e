"""Writes the trained model as a folder for `diffcodec.load` and `weights=`."""

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
    """After training, write `config.json` and `model.safetensors` to `model/` in the run folder.

    The exported module is the trained codec, or the `product` of a module that trains a part.

    Args:
        dtype: `float16` halves the file; loading converts back.

    Raises:
        ValueError: the dtype is unknown; before the first step: the module cannot be written.
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
            # On all processes: sharded parameters are gathered together.
            state = saved_state(_product(pl_module))
            if trainer.is_global_zero:
                save_model(_product(pl_module), folder, dtype=self.dtype, state=state)
        except Exception:  # no error may discard the finished training
            log.exception("could not write %s; the trained weights are in the checkpoint", folder)


def _product(module: LightningModule) -> nn.Module:
    product: nn.Module = getattr(module, "product", module)
    return product
