import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from callbacks.checkpoints import Checkpoints
from callbacks.divergence import StopAtNonFinite
from tests.trainers import quiet_trainer


class Diverging(LightningModule):
    """Its loss, or in silence its weight, is no number from some step on."""

    def __init__(self, loss_step=None, weight_step=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.loss_step, self.weight_step = loss_step, weight_step

    def training_step(self, batch, batch_idx):
        step = self.global_step + 1
        loss = self.weight.sum() * batch["image"].mean()
        return loss * float("inf") if step == self.loss_step else loss

    def on_before_optimizer_step(self, optimizer):
        if self.global_step + 1 == self.weight_step:
            self.weight.grad.fill_(float("nan"))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model, folder, with_checkpoints=True):
    callbacks = [StopAtNonFinite()]
    if with_checkpoints:
        callbacks.append(Checkpoints(str(folder), every_n_steps=2, every_minutes=None))
    trainer = quiet_trainer(
        folder, callbacks=callbacks, max_steps=8, enable_checkpointing=with_checkpoints
    )
    batches = [
        {"image": torch.full((2, 3, 4, 4), 0.5), "name": [f"{i}.png", f"{i}b.png"]}
        for i in range(8)
    ]
    trainer.fit(model, DataLoader(batches, batch_size=None))


def test_it_stops_with_the_step_the_files_and_the_last_good_checkpoint(tmp_path):
    model = Diverging(loss_step=6)
    with pytest.raises(ValueError, match="the loss of step 6 is inf in a batch of") as caught:
        fit(model, tmp_path)
    message = str(caught.value)
    assert "a batch of 5.png, 5b.png, after one of 4.png, 4b.png" in message
    assert f"of step 4, is ckpt_path={tmp_path / 'last.ckpt'}" in message
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    assert model.weight.isfinite().all()


def test_without_a_checkpoint_it_says_so(tmp_path):
    with pytest.raises(ValueError, match="No checkpoint was written before"):
        fit(Diverging(loss_step=1), tmp_path, with_checkpoints=False)


def test_weights_that_are_no_numbers_do_not_replace_a_good_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="after step 4 weight contains NaN or Inf"):
        fit(Diverging(weight_step=4), tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert state["state_dict"]["weight"].isfinite().all()


def test_the_step_after_is_stopped_where_there_is_nothing_to_write(tmp_path):
    with pytest.raises(ValueError, match=r"step 4 is nan in a batch of 3\.png.*of step 2"):
        fit(Diverging(weight_step=3), tmp_path)
