import pytest
import torch

from diffcodec.precision import check_precision, decoding_in


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
