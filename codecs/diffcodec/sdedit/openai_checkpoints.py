"""Conversion of OpenAI's checkpoints to diffusers' layout: consistency models, EDM and ADM.

The files of Consistency Models (`cd_bedroom256_l2.pt`, `edm_bedroom256_ema.pt`, …) and of
guided-diffusion (ADM: `256x256_diffusion_uncond.pt`, `lsun_bedroom.pt`, …) share one layout. ADM
also predicts a variance, which identifies its files. They do not record two options, which the
architecture must provide: the noise schedule and `use_new_attention_order`. With the new order,
attention splits `qkv` into q, k and v first, as in the other checkpoints; with the old order it
splits `qkv` into heads first, and each head into q, k and v.

The two layouts number their layers differently. OpenAI's indices run through all encoder blocks and
start again for the decoder blocks. With L residual blocks per stage:

    input_blocks.0                  conv_in
    input_blocks.{1 + i (L+1) + j}  stage i, block j; j = L is the downsampler
    middle_block.{0, 1, 2}          residual block, attention, residual block
    output_blocks.{i (L+1) + j}     stage i, block j; the last block also upsamples
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_out.0": "proj_out"}
_OTHER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_QKV = ("to_q", "to_k", "to_v")  # thirds of `qkv`, in this order
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}


def _config(size: int, layers: int, widths: Sequence[int], attending: int, **more: Any) -> Any:
    plain = len(widths) - attending
    return {
        "sample_size": size,
        "layers_per_block": layers,
        "block_out_channels": tuple(widths),
        "attention_head_dim": 64,
        "down_block_types": ("ResnetDownsampleBlock2D",) * plain + ("AttnDownBlock2D",) * attending,
        "up_block_types": ("AttnUpBlock2D",) * attending + ("ResnetUpsampleBlock2D",) * plain,
        "upsample_type": "resnet",
        "downsample_type": "resnet",
        **more,
    }


_SCALE_SHIFT: dict[str, Any] = {
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
}

# Options of UNet2DModel for Consistency Models (Song et al. 2023, App. C) and for ADM (Dhariwal &
# Nichol 2021). ADM's last two options are from the README of guided-diffusion.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "lsun256": _config(256, 2, (256, 256, 512, 512, 1024, 1024), 3),
    "imagenet64": _config(*(64, 3, (192, 384, 576, 768), 3), num_class_embeds=1000, **_SCALE_SHIFT),
    # 64x64_diffusion.pt
    "adm_imagenet64": _config(
        *(64, 3, (192, 384, 576, 768), 3),
        num_class_embeds=1000,
        **_SCALE_SHIFT,
        noise_schedule="cosine",
        use_new_attention_order=True,
    ),
    # 256x256_diffusion_uncond.pt, lsun_bedroom.pt, lsun_cat.pt and lsun_horse.pt
    "adm256": _config(
        *(256, 2, (256, 256, 512, 512, 1024, 1024), 3),
        **_SCALE_SHIFT,
        noise_schedule="linear",
        use_new_attention_order=False,
    ),
}
ADM_OPTIONS = ("noise_schedule", "use_new_attention_order")


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split architecture options into those of UNet2DModel and the additional ones of ADM."""
    adm = {key: options[key] for key in ADM_OPTIONS if key in options}
    return {key: value for key, value in options.items() if key not in adm}, adm


def is_adm(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is ADM's: its last layer predicts the noise and a variance.

    Raises:
        ValueError: the checkpoint does not have this layout.
    """
    last, first = state.get("out.2.weight"), state.get("input_blocks.0.0.weight")
    if last is None or first is None:
        raise ValueError(
            "it is not in OpenAI's layout, which has input_blocks.0.0.weight and out.2.weight"
        )
    outputs, inputs = len(last), first.shape[1]
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(
            f"its last layer has {outputs} channels, expected {inputs} (EDM or consistency model) "
            f"or {2 * inputs} (ADM)"
        )
    return outputs == 2 * inputs


def convert(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, head_dim: int | None = None
) -> dict[str, Tensor]:
    """Convert OpenAI's state dict to that of a UNet2DModel.

    Args:
        state: state dict of the checkpoint.
        wanted: state dict of the model, for its keys and shapes.
        head_dim: channels of an attention head if `qkv` is split into heads first (ADM's old
            attention order); None otherwise.

    Returns:
        The converted state dict. Unused keys keep their names, so that the strict loader reports
        them.
    """
    out: dict[str, Tensor] = {}
    used = set()
    layers = 1 + max(int(m[4]) for m in map(_BLOCK.match, wanted) if m and m[3] == "resnets")
    # Decoder stages have one more block than encoder stages, so subtract it.
    for key, like in wanted.items():
        source, third = openai_key(key, wanted, layers - 1)
        if source not in state:
            continue
        used.add(source)
        value = state[source]
        if third is not None and head_dim is not None:
            value = value.unflatten(0, (-1, 3, head_dim))[:, third].flatten(0, 1)
        elif third is not None:
            value = value.chunk(3)[third]
        out[key] = value.reshape(like.shape) if value.numel() == like.numel() else value
    return out | {key: value for key, value in state.items() if key not in used}


def openai_key(key: str, keys: Mapping[str, Any], layers: int) -> tuple[str, int | None]:
    """Map a key of UNet2DModel to OpenAI's key, and to the third of its `qkv` if it is one.

    Args:
        key: key such as `down_blocks.0.resnets.1.conv1.weight`.
        keys: all keys of the UNet2DModel.
        layers: residual blocks per encoder stage.
    """
    module, _, name = key.rpartition(".")
    if module in _OTHER:
        return f"{_OTHER[module]}.{name}", None
    block = _BLOCK.match(module)
    if block is not None:
        prefix, rest = _position(block, keys, layers), module[block.end() + 1 :]
    else:
        _, kind, number, rest = module.split(".", 3)
        prefix = f"middle_block.{_MIDDLE[f'{kind}.{number}']}"
    if rest in _QKV:
        return f"{prefix}.qkv.{name}", _QKV.index(rest)
    return f"{prefix}.{(_RESNET | _ATTENTION)[rest]}.{name}", None


def _position(block: re.Match[str], keys: Mapping[str, Any], layers: int) -> str:
    way, stage, kind, number = block[1], int(block[2]), block[3], int(block[4])
    first = stage * (layers + 1)
    if way == "down":
        index = 1 + first + (layers if kind == "downsamplers" else number)
        return f"input_blocks.{index}.{1 if kind == 'attentions' else 0}"
    if kind == "upsamplers":
        attends = any(k.startswith(f"up_blocks.{stage}.attentions.") for k in keys)
        return f"output_blocks.{first + layers}.{2 if attends else 1}"
    return f"output_blocks.{first + number}.{1 if kind == 'attentions' else 0}"
