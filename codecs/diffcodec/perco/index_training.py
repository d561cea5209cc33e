"""Training of the entropy models of PerCo's codes, with the rest of PerCo frozen."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import ModuleList
from torchmetrics import MeanMetric

from diffcodec.perco.codec import PerCo
from diffcodec.perco.index_model import IndexModel
from diffcodec.training.optimization import warmed_up_adamw


class IndexModelTraining(LightningModule):
    """Trains the entropy models of a PerCo's codes at all rates; all other parts stay frozen.

    The validation metric `val/share/GRIDxGRID/CODES` is the ideal code length relative to log2 V
    bits per code.

    Args:
        codec: trained PerCo with `index_coder` `table` or `model`.
        lr, weight_decay, warmup_steps: learning rate, weight decay and warm-up steps of AdamW; the
            learning rate falls linearly to zero.

    Attributes:
        product: the codec that is exported after training.

    Raises:
        ValueError: the codec codes its indices uniformly.
    """

    def __init__(
        self,
        codec: PerCo,
        *,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__()
        if codec.model.index_coder == "uniform":
            raise ValueError(
                "index_coder=uniform has no entropy model to train: set "
                "part.codec.index_coder=model"
            )
        codec.requires_grad_(False)
        codec.model.index_models.requires_grad_(True)
        self.codec = codec
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        self._shares = ModuleList(MeanMetric() for _ in codec.rates)

    @property
    def product(self) -> PerCo:
        return self.codec

    def train(self, mode: bool = True) -> "IndexModelTraining":
        super().train(mode)
        self.codec.eval()
        return self

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        shares = []
        for model, indices in self._grids(batch):
            counts = indices.flatten().bincount(minlength=model.num_codes)
            model.counts += self.trainer.strategy.reduce(counts, reduce_op="sum")
            shares.append(_share(model, indices))
        loss = torch.stack(shares).mean()
        self.log("train/share", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if not len(batch["index"]):  # none of its images could be read
            return
        for index, (model, indices) in enumerate(self._grids(batch)):
            share: Any = self._shares[index]
            share.update(_share(model, indices))
            self.log(f"val/share/{self.codec.rates[index].name}", share, prog_bar=True)

    def _grids(self, batch: dict[str, Any]) -> list[tuple[IndexModel, Tensor]]:
        """The entropy model of each rate and the images' codes at it, (B, h, w)."""
        model, count = self.codec.model, len(self.codec.rates)
        return [(model.index_model(i), model.codes(batch["image"], i)) for i in range(count)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            list(self.codec.model.index_models.parameters()),
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )


def _share(model: IndexModel, indices: Tensor) -> Tensor:
    """The ideal code length of codes (B, h, w), relative to that of uniform coding, ()."""
    return model.num_bits(indices).sum() / (indices.numel() * math.log2(model.num_codes))
