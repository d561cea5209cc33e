"""In which precision a decoder's diffusion model runs."""

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
