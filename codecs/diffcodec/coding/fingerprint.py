"""The fingerprint of a codec, which must be the same in encoder and decoder."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffcodec.codec import Codec


class Fingerprint:
    """32 bytes that identify a codec, its format settings and its weights.

    They are recomputed when one of these changes. Decoders reject streams with another fingerprint.
    """

    def __init__(self) -> None:
        self._known: tuple[tuple[Any, ...], bytes] | None = None

    def forget(self) -> None:
        """Recompute the fingerprint at the next call."""
        self._known = None

    def __call__(self, codec: "Codec") -> bytes:
        """The fingerprint of a codec; builds its entropy tables if the weights have changed."""
        key = _version(codec)
        if self._known is None or self._known[0] != key:
            # Without autocast, because bfloat16 products result in other tables.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast("cpu", enabled=False),
                torch.autocast(codec.device.type, enabled=False),
            ):
                codec.prepare_coding()
            self._known = (_version(codec), _digest(codec))
        return self._known[1]


def _version(codec: "Codec") -> tuple[Any, ...]:
    # In-place writes (optimizer steps, load_state_dict, EMA) increment a tensor's version, and
    # replacing a tensor changes its id. Equal keys thus mean equal weights, without reading them.
    tensors = [*codec.parameters(), *codec.buffers()]
    return (
        json.dumps(codec.format_config(), sort_keys=True),
        *((id(t), t._version) for t in tensors),
    )


def _digest(codec: "Codec") -> bytes:
    digest = hashlib.sha256(type(codec).__qualname__.encode())
    digest.update(json.dumps(codec.format_config(), sort_keys=True).encode())
    for name, tensor in sorted(codec.decoding_state().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        # Only noise levels are in float64, never weights. Their last bits depend on the CPU that
        # computed them.
        flat = flat.float() if flat.dtype == torch.float64 else flat
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.digest()


def check_precision_of_weights(codec: "Codec") -> None:
    """Raise if weights are not in float32.

    In another precision, entropy tables cannot be built or differ, so no other decoder could read
    the streams. Modules that are stored in bfloat16 to save memory have the attribute
    `held_in_bfloat16` and convert their inputs and outputs.

    Raises:
        ValueError: a parameter of any other module is not in float32.
    """
    held = [m for m in codec.modules() if getattr(m, "held_in_bfloat16", False)]
    converted = {id(p) for m in held for p in m.parameters() if p.dtype == torch.bfloat16}
    for parameter in codec.parameters():
        if id(parameter) in converted:
            continue
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"coding needs float32 weights, got {dtype}: call codec.float(), or pass "
                "trainer.precision=32 or bf16-mixed"
            )
