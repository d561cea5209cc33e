import pytest
import torch

from diffcodec.networks.precision import check_precision, decoding_in, training_precision
from experiments.cli import compose_config


@pytest.mark.parametrize(("value", "name"), [(32, "32"), ("32", "32"), ("bf16", "bf16")])
def test_the_setting_may_be_a_number(value, name):
    assert check_precision(value) == name


def test_another_one_lists_the_choices():
    with pytest.raises(ValueError, match=r"decode_precision 'fp8', choose from \('32', 'bf16'\)"):
        check_precision("fp8")


def test_only_bf16_rounds():
    layer, x = torch.nn.Linear(3, 3), torch.rand(2, 3)
    for precision, dtype in (("32", torch.float32), ("bf16", torch.bfloat16)):
        with decoding_in(precision, x.device):
            assert layer(x).dtype == dtype


@pytest.mark.parametrize(("has_instructions", "name"), [(True, "bf16-mixed"), (False, "32-true")])
def test_trains_in_bfloat16_where_the_processor_computes_with_it(
    monkeypatch, has_instructions, name
):
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_instructions, raising=False
    )
    assert training_precision("cpu") == name
    assert compose_config(["experiment=cdc/small", "trainer=cpu"]).trainer.precision == name


def test_trains_in_bfloat16_on_a_gpu_that_computes_with_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for supported, name in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, s=supported, **__: s)
        assert training_precision("auto") == name
