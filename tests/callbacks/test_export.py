import stat

import pytest
import torch
from safetensors.torch import load_file

from callbacks.export import ExportWeights
from diffcodec.sdedit.training import DenoiserTraining
from tests.trainers import quiet_trainer


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_trained_weights_are_written_in_the_asked_precision(tmp_path, dtype):
    codec = DenoiserTraining([8], 1)
    ExportWeights(dtype).on_fit_end(quiet_trainer(tmp_path), codec)
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == codec.trained_state().keys()
    for name, tensor in codec.trained_state().items():
        assert torch.equal(written[name], tensor.to(getattr(torch, dtype)))


def test_others_may_read_it_as_any_other_file(tmp_path):
    trainer = quiet_trainer(tmp_path)
    ExportWeights().on_fit_end(trainer, DenoiserTraining([8], 1))
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_an_unknown_dtype_lists_the_choices():
    with pytest.raises(ValueError, match="unknown dtype 'int8', choose from float16"):
        ExportWeights("int8")
