import pytest
import torch

from diffcodec.diffusion.guidance import ClassifierFreeGuidance


class Shift:
    """x0_hat = local + text; counts what it is asked."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, sigma, *, text, local=None):
        self.batches.append(len(x))
        assert sigma.ndim == 0 or len(sigma) == len(x)
        return x / (1 + sigma.reshape(-1, 1)) + text + (0 if local is None else local)


@pytest.mark.parametrize("sigma", [torch.tensor(1.0), torch.tensor([1.0, 2.0, 3.0])])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -1.0])
def test_it_contrasts_the_text_and_nothing_else(sigma, scale):
    x, text, null, local = torch.randn(4, 3, 5).unbind(0)
    denoiser = Shift()
    guided = ClassifierFreeGuidance(denoiser, scale, {"text": null})
    without = Shift()(x, sigma, text=null, local=local)
    with_ = Shift()(x, sigma, text=text, local=local)
    torch.testing.assert_close(
        guided(x, sigma, text=text, local=local), without + scale * (with_ - without)
    )
    assert denoiser.batches == [3 if scale in (0, 1) else 6]


def test_one_null_condition_serves_the_whole_batch():
    x, text = torch.randn(2, 3, 5).unbind(0)
    guided = ClassifierFreeGuidance(Shift(), 2.0, {"text": torch.zeros(1, 5)})
    out = guided(x, torch.tensor(1.0), text=text)
    torch.testing.assert_close(out, x / 2 + 2 * text)
