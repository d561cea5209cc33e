"""Captions without a model: colours by region, light and texture, computed from the image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffcodec.weights.configuration import Configured

# Named RGB colours. A pixel gets the name of the nearest colour in a space that weights brightness
# less than hue.
COLOURS = {
    "black": (20, 20, 20),
    "gray": (120, 120, 120),
    "white": (235, 235, 235),
    "red": (170, 40, 40),
    "orange": (220, 130, 50),
    "brown": (110, 75, 45),
    "tan": (195, 165, 125),
    "yellow": (220, 200, 70),
    "green": (75, 110, 45),
    "teal": (50, 120, 120),
    "blue": (60, 95, 165),
    "light blue": (150, 185, 220),
    "purple": (110, 60, 130),
    "pink": (225, 150, 160),
}
REGIONS = {
    "at the top": (slice(0, 2), slice(0, 6)),
    "in the middle": (slice(2, 4), slice(1, 5)),
    "at the bottom": (slice(4, 6), slice(0, 6)),
}
SIDE = 48  # side of the thumbnail that is described
MIN_SHARE = 0.3  # minimum share of a region's second colour to be named


class PaletteCaptioner(Configured):
    """Captions that describe the colours, light and texture of an image.

    Example: "a bright photo, light blue at the top, green and brown at the bottom, fine texture".
    Captions are deterministic; consecutive regions with the same colours are merged.
    """

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]:
        return [describe(image) for image in x.detach().float().cpu()]


def describe(image: Tensor) -> str:
    """Image (3, H, W) in [0, 1] -> caption."""
    thumbnail = F.interpolate(image[None], size=(SIDE, SIDE), mode="area")[0]
    luma = _luma(thumbnail)
    names = _nearest_colours(thumbnail)
    cell = SIDE // 6
    parts: list[tuple[str, list[str]]] = []
    for place, (rows, columns) in REGIONS.items():
        patch = names[
            rows.start * cell : rows.stop * cell, columns.start * cell : columns.stop * cell
        ]
        colours = _main_colours(patch)
        if parts and parts[-1][0] == colours:
            parts[-1][1].append(place)
        else:
            parts.append((colours, [place]))
    if len(parts) == 1:
        places = parts[0][0]
    else:
        places = ", ".join(f"{colours} {' and '.join(where)}" for colours, where in parts)
    return f"a {_light(luma)} photo, {places}, {_texture(image)}"


def _nearest_colours(thumbnail: Tensor) -> Tensor:
    table = _opponent(torch.tensor([*COLOURS.values()], dtype=torch.float32).div(255).T)
    pixels = _opponent(thumbnail.flatten(1))
    return torch.cdist(pixels.T, table.T).argmin(1).reshape(SIDE, SIDE)


def _opponent(rgb: Tensor) -> Tensor:
    """RGB (3, N) -> brightness and two colour differences (3, N)."""
    r, g, b = rgb
    return torch.stack([(r + g + b) / 3 * 0.8, (r - g) * 2.5, ((r + g) / 2 - b) * 1.5])


def _main_colours(patch: Tensor) -> str:
    share = torch.bincount(patch.flatten(), minlength=len(COLOURS)) / patch.numel()
    first, second = share.argsort(descending=True, stable=True)[:2].tolist()
    names = [*COLOURS]
    if share[second] >= MIN_SHARE:
        return f"{names[first]} and {names[second]}"
    return names[first]


def _light(luma: Tensor) -> str:
    mean, spread = luma.mean().item(), luma.std().item()
    light = "dark" if mean < 0.3 else "bright" if mean > 0.6 else "clear"
    return f"{light} high contrast" if spread > 0.25 else light


def _texture(image: Tensor) -> str:
    """Texture by the differences of neighbouring pixels: smooth, soft, detailed or fine."""
    luma = _luma(image)
    steps = [d.abs().mean().item() for d in (luma.diff(dim=0), luma.diff(dim=1)) if d.numel()]
    activity = sum(steps) / len(steps) if steps else 0.0
    for limit, name in ((0.008, "smooth"), (0.02, "soft"), (0.045, "detailed")):
        if activity < limit:
            return f"{name} texture"
    return "fine texture"


def _luma(image: Tensor) -> Tensor:
    r, g, b = image
    return 0.299 * r + 0.587 * g + 0.114 * b
