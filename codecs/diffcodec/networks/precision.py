"""The precision in which networks run."""

import torch

PRECISIONS = ("32", "bf16")


def check_precision(value: str | int) -> str:
    """Check the setting `decode_precision` and return it as a string; YAML may parse it as int.

    Raises:
        ValueError: the value is not one of `PRECISIONS`.
    """
    if str(value) not in PRECISIONS:
        raise ValueError(f"unknown decode_precision {value!r}, choose from {PRECISIONS}")
    return str(value)


def decoding_in(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks run in a precision; samplers use float32 in any case.

    Args:
        precision: one of `PRECISIONS`; `bf16` is autocast to bfloat16.
        device: device of the network.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def training_precision(accelerator: str) -> str:
    """Lightning's name of the fastest precision in which training works like in float32.

    This is `bf16-mixed` on hardware with native bfloat16. CPUs without native bfloat16, as in most
    laptops, emulate it and are about 10x slower than in float32.

    Args:
        accelerator: Lightning's name of the accelerator; `auto` is a GPU if one is available.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        fast = False
    else:
        fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "bf16-mixed" if fast else "32-true"
