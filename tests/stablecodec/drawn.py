"""A reduced StableCodec whose weights are drawn by a rule instead of stored.

`reference.json` beside this file has the names and shapes of the authors' checkpoint for it, and
what their code computes with such weights.
"""

import json
from pathlib import Path

import torch

from tests.ddcm.drawn import draw, picture

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
SIZES = {"M": 16, "widths": (24, 16), "elic_N": 8, "elic_M": 12}


def drawn(name: str, shape: list[int]) -> torch.Tensor:
    """The tensor of a name in the authors' checkpoint."""
    values = draw(name, tuple(shape))
    if "lora_" in name:
        return 0.3 * values
    if name.endswith("quantiles"):
        return torch.tensor([-8.0, 0.0, 8.0]) + torch.stack([0 * values[..., 1]] * 3, -1)
    if "entropy_bottleneck" in name:
        return 0.1 * values - 0.5 * ("_matrix" in name)
    if name.startswith("state_dict_codec") and name.endswith(("conv2.weight", "fc2.weight")):
        return 0.2 * values  # blocks that change their input a little
    if "g_a.analysis_transform.3" in name or "h_a.reduction.2" in name:
        return 1.5 * values  # latents of a few quantization steps
    return values


def save_drawn_checkpoint(folder: Path) -> tuple[Path, Path]:
    """A checkpoint as the authors publish them, and ELIC's."""
    files = {"codec.pkl": {}, "elic.pth": {}}
    for part, layout in REFERENCE["layout"].items():
        state = {key: drawn(f"{part}.{key}", shape) for key, shape in layout.items()}
        if part == "elic":
            files["elic.pth"] = state
        else:
            files["codec.pkl"][part] = state
    for name, content in files.items():
        torch.save(content, folder / name)
    return folder / "codec.pkl", folder / "elic.pth"


def image() -> torch.Tensor:
    """(1, 3, 256, 512) in [0, 1]."""
    return picture(512)[..., :256, :]
