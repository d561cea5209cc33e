"""Building blocks of CDC's encoder, context decoder and U-Net (paper, App. B)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ContextTerms = tuple[Tensor, Tensor]
"""A context map's terms in a `ResBlock`: one after the first convolution, one in the skip."""


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of each pixel, (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """conv -> norm -> relu, + time, conv -> norm -> relu, + skip.

    The paper concatenates a context map c to the input x. Because
    conv([x, c]) = conv_x(x) + conv_c(c), the term of c is the same at every decoding step.
    `context_terms` computes it once.

    Args:
        in_channels: number of channels of x.
        out_channels: number of output channels.
        time_channels: size of the time embedding; 0 for none.
        context_channels: number of channels of the context map; 0 for none.
        kernel_size: kernel size of the first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_channels: int = 0,
        context_channels: int = 0,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        total = in_channels + context_channels
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(total, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm1 = ChannelNorm(out_channels)
        self.time = nn.Linear(time_channels, out_channels) if time_channels else None
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = ChannelNorm(out_channels)
        self.skip = nn.Conv2d(total, out_channels, 1) if total != out_channels else None

    def context_terms(self, context: Tensor) -> ContextTerms:
        """A context map (B, C, H, W) -> its two terms, both (B, out_channels, H, W)."""
        split = self.in_channels
        term = F.conv2d(context, self.conv1.weight[:, split:], padding=self.conv1.padding)
        if self.skip is not None:
            return term, F.conv2d(context, self.skip.weight[:, split:])
        # In autocast's dtype as well: the sum with a float32 term would be float32 at every step.
        return term, F.pad(context.to(term.dtype), (0, 0, 0, 0, split, 0))

    def forward(
        self, x: Tensor, time: Tensor | None = None, terms: ContextTerms | None = None
    ) -> Tensor:
        if terms is None:
            h, skip = self.conv1(x), x if self.skip is None else self.skip(x)
        else:
            h = terms[0] + self._convolve(self.conv1, x)
            skip = terms[1] + (self._pad(x) if self.skip is None else self._convolve(self.skip, x))
        h = F.relu(self.norm1(h))
        if self.time is not None:
            assert time is not None
            h = h + self.time(F.leaky_relu(time, 0.2))[:, :, None, None]
        return F.relu(self.norm2(self.conv2(h))) + skip

    def _convolve(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        return F.conv2d(x, conv.weight[:, : self.in_channels], conv.bias, padding=conv.padding)

    def _pad(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.conv1.in_channels - self.in_channels))


class LinearAttention(nn.Module):
    """Linear attention over the pixels of the normalized x, with one head and a skip connection.

    With X the normalized input (N pixels, C) and W the four C x C matrices, the paper's
    W_o (V^T softmax(K)) Q equals X (W_o W_v (X^T softmax(X W_k^T)) W_q)^T. This form does not
    compute values and queries, which halves the work.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        w_q, w_k, w_v = self.qkv.weight.flatten(1).chunk(3)
        pixels = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        keys = F.linear(pixels, w_k).softmax(dim=1)
        # One image at a time: a batched product would copy the transposed operand.
        summary = torch.stack([x_i.T @ k_i for x_i, k_i in zip(pixels, keys, strict=True)])
        matrix = (self.out.weight.flatten(1) @ w_v) @ summary @ (w_q * x.shape[1] ** -0.5)
        assert self.out.bias is not None
        out = torch.baddbmm(self.out.bias, pixels, matrix.transpose(1, 2))
        return x + out.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class BlockConv2d(nn.Conv2d):
    """A convolution to few channels, computed on blocks of 2x2 pixels; H and W must be even.

    Convolution kernels compute 8 or 16 output channels at a time, so three leave most of that idle.
    Here the four pixels of a block become output channels of a convolution with stride 2. Its
    kernel is larger by one and contains the same weights, shifted and padded with zeros. The sums
    are the same, in a third of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        shifts = [(dx, 1 - dx, dy, 1 - dy) for dy in (0, 1) for dx in (0, 1)]
        weight = torch.stack([F.pad(self.weight, shift) for shift in shifts], dim=1).flatten(0, 1)
        assert self.bias is not None
        bias = self.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, weight, bias, stride=2, padding=self.padding), 2)


def downsample(channels: int) -> nn.Conv2d:
    """Halve height and width."""
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1)


def upsample(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Double height and width."""
    return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
