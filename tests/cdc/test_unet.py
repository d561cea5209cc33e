import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffcodec.cdc.layers import BlockConv2d, ChannelNorm, LinearAttention, ResBlock
from diffcodec.cdc.unet import UNet


@pytest.mark.parametrize("out_channels", [8, 11])  # with a convolution in the skip and without
def test_splitting_off_the_context_is_the_same_as_concatenating_it(out_channels):
    block = ResBlock(6, out_channels, time_channels=4, context_channels=5).double()
    joined = ResBlock(11, out_channels, time_channels=4).double()
    joined.load_state_dict(block.state_dict())
    x, context = torch.randn(2, 6, 8, 8).double(), torch.randn(2, 5, 8, 8).double()
    time = torch.randn(2, 4).double()
    expected = joined(torch.cat([x, context], 1), time)
    torch.testing.assert_close(block(x, time, block.context_terms(context)), expected)


def test_attention_is_the_papers():
    attention = LinearAttention(6).double()
    with torch.no_grad():
        attention.norm.weight.normal_()
    x = torch.randn(2, 6, 4, 8).double()
    q, k, v = (t.flatten(2) for t in attention.qkv(attention.norm(x)).chunk(3, dim=1))
    context = torch.einsum("bdn,ben->bde", k.softmax(-1), v)
    out = torch.einsum("bde,bdn->ben", context, q * 6**-0.5).view_as(x)
    torch.testing.assert_close(attention(x), x + attention.out(out))


@pytest.mark.parametrize("kernel_size", [1, 7])
def test_by_blocks_a_convolution_is_the_same(kernel_size):
    conv = BlockConv2d(5, 3, kernel_size, padding=kernel_size // 2).double()
    x = torch.randn(2, 5, 12, 18, dtype=torch.double)
    expected = F.conv2d(x, conv.weight, conv.bias, padding=kernel_size // 2)
    torch.testing.assert_close(conv(x), expected)


def test_channel_norm_normalises_each_pixel():
    norm = ChannelNorm(16)
    x = norm(torch.randn(2, 16, 3, 5) * 7 + 3)
    torch.testing.assert_close(x.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-3, rtol=0)


def test_released_size_has_the_released_number_of_parameters():
    from diffcodec.cdc.compressor import Compressor

    def count(module: nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    with torch.device("meta"):
        unet = UNet(64, (1, 2, 3, 4, 5, 6), (64, 64, 128, 192))
        compressor = Compressor(64, (1, 2, 3, 4), (4, 4, 4), 64)
    assert count(unet) == pytest.approx(40.1, abs=0.05)
    assert count(compressor) == pytest.approx(13.8, abs=0.05)


@torch.no_grad()
def test_channels_last_and_batches_change_nothing_beyond_rounding():
    torch.manual_seed(0)
    unet = UNet(4, (1, 2, 3, 4, 5, 6), (3, 4, 8, 12))
    x = torch.randn(2, 3, 64, 96)
    contexts = [torch.randn(2, c, 64 >> i, 96 >> i) for i, c in enumerate((3, 4, 8, 12))]
    time = torch.tensor([0.2, 0.9])
    expected = unet(x, time, unet.context_terms(contexts))
    single = unet(x[:1], time[0], unet.context_terms([c[:1] for c in contexts]))
    torch.testing.assert_close(single, expected[:1], rtol=1e-4, atol=1e-5)
    unet.to(memory_format=torch.channels_last)
    last = unet(x, time, unet.context_terms(contexts))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_is_trained():
    unet = UNet(4, (1, 2, 3, 4, 5, 6), (3, 4, 8, 12))
    contexts = [torch.randn(1, c, 64 >> i, 64 >> i) for i, c in enumerate((3, 4, 8, 12))]
    out = unet(torch.randn(1, 3, 64, 64), torch.rand(1), unet.context_terms(contexts))
    assert out.shape == (1, 3, 64, 64)
    F.mse_loss(out, torch.zeros_like(out)).backward()
    assert all(p.grad is not None for p in unet.parameters())
