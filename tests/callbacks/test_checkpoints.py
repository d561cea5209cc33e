import random

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch.utils.data import DataLoader

from callbacks import checkpoints
from callbacks.checkpoints import Checkpoints
from tests.trainers import quiet_trainer


class Line(LightningModule):
    """One weight; validation draws random numbers of every kind."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))
        return (self.weight * batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.validated = torch.rand(3), random.random(), np.random.rand()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, *, steps=4, validate=True, model=None, **options):
    model = model or Line()
    callback = Checkpoints(str(folder), **options)
    trainer = quiet_trainer(
        folder,
        callbacks=[callback],
        max_steps=steps,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        val_check_interval=1,
        limit_val_batches=1 if validate else 0,
    )
    seed_everything(0, verbose=False)
    # With generators of their own, as the datamodule's: an iterator draws from one when it starts.
    loaders = [DataLoader(torch.ones(100, 1), generator=torch.Generator()) for _ in range(2)]
    trainer.fit(model, *loaders)
    return model


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_the_last_and_the_one_before_are_kept(tmp_path):
    fit(tmp_path, every_n_steps=3, every_minutes=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert step_of(tmp_path / "last.ckpt") == 4  # at the end of fitting
    assert step_of(tmp_path / "previous.ckpt") == 3


def test_a_short_training_is_not_lost_where_writing_is_cheap(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    seconds = {"step": 4.0, "writing": 1.0}

    class Clocked(Line):
        def training_step(self, batch, batch_idx):
            now[0] += seconds["step"]
            return super().training_step(batch, batch_idx)

    written = []
    save = Checkpoints.save

    def slow_save(self, trainer):
        written.append(trainer.global_step)
        sync = checkpoints._sync

        def waiting(path):
            now[0] += seconds["writing"]
            sync(path)

        monkeypatch.setattr(checkpoints, "_sync", waiting)
        save(self, trainer)
        monkeypatch.setattr(checkpoints, "_sync", sync)

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    fit(tmp_path, steps=40, model=Clocked())
    # First after ten seconds, then whenever one second of writing is a fiftieth of the time.
    assert written == [3, 16, 29, 40]
    written.clear()
    seconds["writing"] = 60.0  # a fiftieth of 3000 seconds: every ten minutes instead
    fit(tmp_path, steps=320, model=Clocked())
    assert written == [3, 153, 303, 320]


def test_random_numbers_do_not_depend_on_validation(tmp_path):
    assert fit(tmp_path, validate=True).drawn == fit(tmp_path, validate=False).drawn


def test_killed_while_it_writes_it_leaves_whole_files(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    replaced = []
    move = checkpoints._move

    def killed(source, target):
        if len(replaced) == 3:  # the second checkpoint, between its two renames
            raise Killed
        replaced.append(target.name)
        move(source, target)

    monkeypatch.setattr(checkpoints, "_move", killed)
    with pytest.raises(Killed):
        fit(tmp_path, every_n_steps=1, every_minutes=None)
    assert not (tmp_path / "last.ckpt").exists()
    assert step_of(tmp_path / "previous.ckpt") == 1


@pytest.mark.parametrize(
    ("option", "value"), [("every_minutes", 0), ("every_n_steps", -1), ("max_overhead", 2)]
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option}.*{value}"):
        Checkpoints("folder", **{option: value})
