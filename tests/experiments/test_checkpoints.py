import pickle

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from diffcodec.base.classical import PillowCodec
from experiments.build import load_trained
from experiments.checkpoints import check_resumable, find_checkpoint
from experiments.run import _check_average
from tests.trainers import quiet_trainer


def checkpoint_of(module, **entries):
    training = {"optimizer_states": [], "lr_schedulers": [], "loops": {}}
    return {"state_dict": module.state_dict(), **training, **entries}


@pytest.fixture
def module():
    return nn.Linear(64, 64)


def test_last_is_the_newest_of_this_run_or_none(tmp_path):
    assert find_checkpoint("last", tmp_path) is None
    assert find_checkpoint(None, tmp_path) is None
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "previous.ckpt").touch()
    assert find_checkpoint("last", tmp_path) == folder / "previous.ckpt"
    (folder / "last.ckpt").touch()
    assert find_checkpoint("last", tmp_path) == folder / "last.ckpt"
    assert find_checkpoint(str(folder / "last.ckpt"), tmp_path) == folder / "last.ckpt"
    with pytest.raises(ValueError, match=r"ckpt_path=nowhere\.ckpt does not exist"):
        find_checkpoint("nowhere.ckpt", tmp_path)


def test_what_training_can_go_on_from_is_accepted(tmp_path, module):
    torch.save(checkpoint_of(module), tmp_path / "last.ckpt")
    check_resumable(tmp_path / "last.ckpt", module)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_one_is_refused_by_name_and_the_one_before_is_offered(tmp_path, module, kept):
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    torch.save(checkpoint_of(module), last)
    data = last.read_bytes()
    last.write_bytes(data[: int(kept * len(data) if kept < 1 else kept)])
    with pytest.raises(ValueError, match=r"last\.ckpt is not a complete checkpoint") as caught:
        check_resumable(last, module)
    assert "previous" not in str(caught.value)
    previous.write_bytes(data)
    with pytest.raises(ValueError, match=rf"last\.ckpt is not.*ckpt_path={previous}") as caught:
        check_resumable(last, module)
    assert "\n" not in str(caught.value)
    previous.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"last\.ckpt is not a complete checkpoint") as caught:
        check_resumable(last, module)
    assert "previous" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("check", [check_resumable, lambda p, m: load_trained(m, str(p))])
def test_a_malicious_one_is_not_run_and_refused_in_one_line(tmp_path, module, pickled, check):
    path = tmp_path / "last.ckpt"
    if pickled:
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    else:
        torch.save(checkpoint_of(module, callbacks=Evil()), path)
    with pytest.raises(
        ValueError, match=r"last\.ckpt is not a complete checkpoint of plain"
    ) as caught:
        check(path, module)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))
    assert "weights_only" not in message  # torch's advice is to switch the check off


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("optimizer_states"), "has no optimizer_states.*codec.weights=FILE"),
        (lambda c: c.update(state_dict=3), "its state_dict is a int"),
        (
            lambda c: c["state_dict"].pop("bias"),
            "is not a checkpoint of this.*1 tensors differ.*bias",
        ),
        (lambda c: c["state_dict"].update(bias=torch.ones(3)), "not a checkpoint of this.*bias"),
    ],
)
def test_checkpoints_of_something_else_are_refused(tmp_path, module, change, message):
    checkpoint = checkpoint_of(module)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=message):
        check_resumable(tmp_path / "c.ckpt", module)


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path):
    torch.save({f"{i}": torch.ones(1) for i in range(1000)}, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match=r"w\.ckpt do not fit") as caught:
        load_trained(PillowCodec("JPEG", quality=50), str(tmp_path / "w.ckpt"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_training_that_ends_before_its_average_begins_is_refused(tmp_path):
    average = EMAWeightAveraging(update_starting_at_step=5, use_buffers=False)
    for max_steps, refused in ((5, True), (6, False), (-1, False)):
        trainer = quiet_trainer(tmp_path, callbacks=[average], max_steps=max_steps, max_epochs=1)
        if refused:
            with pytest.raises(
                ValueError, match=r"max_steps=5 ends before.*update_starting_at_step=5"
            ):
                _check_average(trainer)
        else:
            _check_average(trainer)
