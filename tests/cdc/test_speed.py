"""What a decode costs at the released size: `pytest -m slow tests/cdc/test_speed.py -s`."""

import time

import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.files import read_rgb
from diffcodec.cdc import CDC
from diffcodec.cdc.layers import BlockConv2d
from diffcodec.cdc.unet import UNet


def seconds(codec: CDC, stream: bytes) -> tuple[float, torch.Tensor]:
    """What a decode takes, and the picture."""
    start = time.perf_counter()
    x_hat = codec.decompress([stream])
    return time.perf_counter() - start, x_hat


@pytest.mark.slow
def test_a_kodak_image_decodes_in_a_third_of_the_plain_networks_time(shared, monkeypatch):
    x = pil_to_tensor(read_rgb(shared / "data" / "kodak" / "kodim01.png"))[None] / 255
    torch.manual_seed(0)
    codec = CDC(width=64, steps=17).eval()
    (stream,) = codec.compress(x)

    # Context maps concatenated at every call, as the released code does.
    terms, forward = UNet.context_terms, UNet.forward
    with monkeypatch.context() as patch:
        patch.setattr(BlockConv2d, "forward", nn.Conv2d.forward)
        patch.setattr(UNet, "context_terms", lambda self, contexts: contexts)
        patch.setattr(UNet, "forward", lambda self, x, t, c: forward(self, x, t, terms(self, c)))
        plain, expected = seconds(codec, stream)
    once, x_hat = seconds(codec, stream)
    torch.testing.assert_close(x_hat, expected, rtol=0, atol=1e-4)

    codec.to(memory_format=torch.channels_last)
    codec.decode_precision = "bf16"
    eager, _ = seconds(codec, stream)
    codec.unet.compile()
    codec.decompress([stream])  # compiles
    times, pictures = zip(*(seconds(codec, stream) for _ in range(3)), strict=True)
    compiled, x_hat = sorted(times)[1], pictures[-1]
    print(f"\nplain {plain:.1f} s, context once {once:.1f} s, bf16 + channels_last {eager:.1f} s,")
    print(f"compiled {compiled:.1f} s with {torch.get_num_threads()} threads")
    assert (x_hat - expected).abs().mean() < 0.02
    assert compiled < plain / 3
