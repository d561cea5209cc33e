"""Conversion of the checkpoints that CDC's authors released.

xparam         {"ema": {"ema_model.denoise_fn.…": …, …}, "model": …}   the EMA weights are used
epsilonparam   {"model": {"denoise_fn.…": …, …}}

The state dict of either may also be given alone, as in a safetensors file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffcodec.weights.loading import remap

TAIL_MASS = 1e-9  # of the factorized prior; the escape code covers the tails

# STAGES renames the position of a block, BLOCKS then renames its contents.
STAGES: tuple[tuple[str, str | None], ...] = (
    (r"loss_fn_vgg\.", None),  # LPIPS, used in training only
    (r"train_", None),  # the noise schedule, which the config determines
    (r"denoise_fn\.time_mlp\.0\.", "unet.time1."),
    (r"denoise_fn\.time_mlp\.2\.", "unet.time2."),
    (r"denoise_fn\.(downs|ups)\.(\d+)\.0\.", r"unet.\1.\2.res1."),
    (r"denoise_fn\.(downs|ups)\.(\d+)\.1\.", r"unet.\1.\2.res2."),
    (r"denoise_fn\.(downs|ups)\.(\d+)\.2\.", r"unet.\1.\2.attention."),
    (r"denoise_fn\.(downs|ups)\.(\d+)\.3\.conv\.", r"unet.\1.\2.resample."),
    (r"denoise_fn\.mid_block([12])\.", r"unet.mid\1."),
    (r"denoise_fn\.mid_attn\.", "unet.mid_attention."),
    (r"denoise_fn\.final_conv\.0\.g$", "unet.norm_out.weight"),
    (r"denoise_fn\.final_conv\.0\.b$", "unet.norm_out.bias"),
    (r"denoise_fn\.final_conv\.1\.", "unet.conv_out."),
    (r"context_fn\.enc\.(\d+)\.0\.", r"compressor.g_a.\1.res."),
    (r"context_fn\.enc\.(\d+)\.[12]\.conv\.", r"compressor.g_a.\1.resample."),
    (r"context_fn\.dec\.(\d+)\.0\.", r"compressor.g_s.\1.res."),
    (r"context_fn\.dec\.(\d+)\.[12]\.conv\.", r"compressor.g_s.\1.resample."),
    (r"context_fn\.hyper_enc\.0\.0\.", "compressor.h_a.0."),
    (r"context_fn\.hyper_enc\.1\.0\.", "compressor.h_a.2."),
    (r"context_fn\.hyper_enc\.2\.0\.", "compressor.h_a.4."),
    (r"context_fn\.hyper_dec\.0\.0\.", "compressor.h_s.0."),
    (r"context_fn\.hyper_dec\.1\.0\.", "compressor.h_s.2."),
    (r"context_fn\.hyper_dec\.2\.0\.", "compressor.h_s.4."),
    (r"context_fn\.prior\.affine\.(\d+)\.weight", r"compressor.entropy_bottleneck.matrices.\1"),
    (r"context_fn\.prior\.affine\.(\d+)\.bias", r"compressor.entropy_bottleneck.biases.\1"),
    (r"context_fn\.prior\.a\.(\d+)", r"compressor.entropy_bottleneck.factors.\1"),
    (r"context_fn\.prior\._medians", "compressor.entropy_bottleneck.quantiles"),
)
BLOCKS: tuple[tuple[str, str | None], ...] = (
    (r"(.*\.)block([12])\.block\.0\.", r"\1conv\2."),
    (r"(.*\.)block([12])\.block\.1\.g$", r"\1norm\2.weight"),
    (r"(.*\.)block([12])\.block\.1\.b$", r"\1norm\2.bias"),
    (r"(.*\.)mlp\.1\.", r"\1time."),
    (r"(.*\.)res_conv\.", r"\1skip."),
    (r"(.*\.)fn\.norm\.g$", r"\1norm.weight"),
    (r"(.*\.)fn\.norm\.b$", r"\1norm.bias"),
    (r"(.*\.)fn\.fn\.to_qkv\.", r"\1qkv."),
    (r"(.*\.)fn\.fn\.to_out\.", r"\1out."),
)


def released_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of a released checkpoint under their released names; None for any other file."""
    if isinstance(checkpoint.get("ema"), Mapping):
        prefix = "ema_model."
        ema = checkpoint["ema"]
        return {k.removeprefix(prefix): v for k, v in ema.items() if k.startswith(prefix)}
    if isinstance(checkpoint.get("model"), Mapping):
        return dict(checkpoint["model"])
    if any(key.startswith(("denoise_fn.", "context_fn.")) for key in checkpoint):
        return dict(checkpoint)
    return None


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their released names -> tensors under this project's names.

    A key that is not in the tables keeps its name, so that a strict load fails.
    """
    renamed = remap(remap(state, STAGES), BLOCKS)
    out = {name: _reshape(name, tensor) for name, tensor in renamed.items()}
    prior = "compressor.entropy_bottleneck."
    if f"{prior}quantiles" in out:
        parts = {k.removeprefix(prior): v.double() for k, v in out.items() if k.startswith(prior)}
        out[f"{prior}quantiles"] = _quantiles(parts)
    return out


def _reshape(name: str, tensor: Tensor) -> Tensor:
    if "norm" in name.split(".")[-2]:
        return tensor.flatten()  # (1, C, 1, 1)
    if ".matrices." in name:
        return tensor[:, 0, 0].transpose(1, 2)  # (C, 1, 1, in, out)
    if ".biases." in name or ".factors." in name:
        return tensor[:, 0, 0].transpose(1, 2)  # (C, 1, 1, 1, out)
    return tensor


def _quantiles(prior: Mapping[str, Tensor]) -> Tensor:
    """The quantiles (C, 1, 3): the released median, and both tails an integer distance from it.

    The released prior has no tail quantiles. The coder uses only their integer distances from the
    median. Unlike the exact tail quantiles, these are the same on every machine.
    """
    median = prior["quantiles"].reshape(-1, 1, 1)
    target = torch.tensor(2 / TAIL_MASS - 1, dtype=torch.float64).log()
    reach = torch.ones_like(median)
    sides = []
    for sign in (-1, 1):
        low, high = torch.zeros_like(reach), torch.full_like(reach, 2.0**20)
        for _ in range(21):  # down to a distance of one
            middle = (low + high) / 2
            inside = sign * _logits(prior, median + sign * middle) < target
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        sides.append(high.ceil())
    return torch.cat([median - sides[0], median, median + sides[1]], dim=-1).float()


def _logits(prior: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Logit of the prior's cumulative distribution (Ballé et al. 2018, App. 6.1), (C, 1, n)."""
    depth = sum(name.startswith("matrices.") for name in prior)
    for i in range(depth):
        x = F.softplus(prior[f"matrices.{i}"]) @ x + prior[f"biases.{i}"]
        if i < depth - 1:
            x = x + prior[f"factors.{i}"].tanh() * x.tanh()
    return x
