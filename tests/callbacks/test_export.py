import json
import stat

import pytest
import torch
from safetensors.torch import load_file

import diffcodec
from callbacks.export import ExportModel
from diffcodec.base.vbr import VariableRateCodec
from diffcodec.codec import Codec
from diffcodec.sdedit.prior_training import DenoiserTraining
from diffcodec.sdedit.small_unet import SmallUNet
from tests.trainers import quiet_trainer


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_trained_weights_are_written_in_the_asked_precision(tmp_path, dtype):
    network = SmallUNet([8], 1)
    ExportModel(dtype).on_fit_end(quiet_trainer(tmp_path), DenoiserTraining(network))
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert written.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(written[name], tensor.to(getattr(torch, dtype)))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["channels"] == [8]


def test_a_codec_is_written_whole(tmp_path):
    codec = VariableRateCodec(4, 6, lambdas=[0.01, 0.02])
    ExportModel("float32").on_fit_end(quiet_trainer(tmp_path), codec)
    loaded = diffcodec.load(str(tmp_path / "model"))
    assert loaded.fingerprint() == codec.fingerprint()


def test_what_cannot_be_written_is_known_before_the_first_step(tmp_path):
    class Odd(Codec):
        def __init__(self, thing: object) -> None:
            super().__init__()

        def encode(self, x):
            raise NotImplementedError

        def decode(self, payloads, height, width, seeds):
            raise NotImplementedError

    message = "cannot write thing of Odd, a object, into a config; pass callbacks.export=null"
    with pytest.raises(ValueError, match=message):
        ExportModel().on_fit_start(quiet_trainer(tmp_path), Odd(object()))


def test_others_may_read_it_as_any_other_file(tmp_path):
    trainer = quiet_trainer(tmp_path)
    ExportModel().on_fit_end(trainer, DenoiserTraining(SmallUNet([8], 1)))
    folder = tmp_path / "model"
    (folder / "other").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 1


def test_an_unknown_dtype_lists_the_choices():
    with pytest.raises(ValueError, match="unknown dtype 'int8', choose from float16"):
        ExportModel("int8")
