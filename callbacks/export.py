"""Writing trained weights as one small safetensors file."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class ExportWeights(Callback):
    """After training, write what was trained to `model.safetensors` in the run's folder.

    That is the module's `trained_state()`; one without it, no codec and no part of one, has none.

    Args:
        dtype: `float16` halves the file; loading widens it again.
    """

    def __init__(self, dtype: str = "float16") -> None:
        if dtype not in ("float16", "bfloat16", "float32"):
            raise ValueError(f"unknown dtype {dtype!r}, choose from float16, bfloat16, float32")
        self.dtype = getattr(torch, dtype)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from safetensors.torch import save

        trained_state = getattr(pl_module, "trained_state", None)
        if not trainer.is_global_zero or trained_state is None:
            return
        state = {
            name: (t.to(self.dtype) if t.is_floating_point() else t).contiguous().cpu()
            for name, t in trained_state().items()
        }
        # Not `save_file`, whose files only their owner may read: others start from them.
        (Path(trainer.default_root_dir) / "model.safetensors").write_bytes(save(state))
