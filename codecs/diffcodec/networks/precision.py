"""In which precision networks run."""

import torch

PRECISIONS = ("32", "bf16")


def check_precision(value: str | int) -> str:
    """The setting `decode_precision` as a name, also where YAML made it a number.

    Raises:
        ValueError: it is not one of `PRECISIONS`.
    """
    if str(value) not in PRECISIONS:
        raise ValueError(f"unknown decode_precision {value!r}, choose from {PRECISIONS}")
    return str(value)


def decoding_in(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks run in that precision; samplers keep float32 in either.

    Args:
        precision: one of `PRECISIONS`; `bf16` is autocast to bfloat16.
        device: of the network.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def training_precision(accelerator: str) -> str:
    """Lightning's name of the fastest precision that trains as float32 does.

    That is `bf16-mixed` where the machine computes with bfloat16 itself. Processors without
    instructions for it (those of most laptops) emulate it, and take ten times as long as in
    float32.

    Args:
        accelerator: Lightning's name; `auto` is a GPU where there is one.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        fast = False
    else:
        fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "bf16-mixed" if fast else "32-true"
