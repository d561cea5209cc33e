"""Maps of ST-LPIPS beside the pictures of a comparison: where two images differ to the eye."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.comparison.pictures import Pictures

COLORS = "inferno"  # dark to bright, also readable in grey
TOP = 0.995  # quantile of the values that gets the brightest colour


def draw_maps(pictures: Sequence[Pictures], folder: Path) -> None:
    """Write `NAME.st_lpips.png` beside each reconstruction, and note it in the pictures.

    All maps of an image have the same square-root scale. Images under 32 pixels a side have none.

    Args:
        pictures: from `copy_pictures`.
        folder: of the comparison.

    Raises:
        ValueError: the weights of ST-LPIPS are not available.
    """
    import matplotlib
    from torchvision.transforms.v2.functional import pil_to_tensor

    from diffcodec.metrics.networks.st_lpips import MIN_SIDE, ShiftTolerantLpips

    network = ShiftTolerantLpips("alex")
    colors = matplotlib.colormaps[COLORS]
    for shown in pictures:
        if min(shown.width, shown.height) < MIN_SIDE:
            continue
        original = pil_to_tensor(_open(folder / shown.original))
        maps = [
            network.map(original, pil_to_tensor(_open(folder / item["src"]))).numpy()
            for item in shown.items
        ]
        scale = max((float(np.quantile(values, TOP)) for values in maps), default=0.0) or 1.0
        shown.map_scale = scale
        for item, values in zip(shown.items, maps, strict=True):
            target = Path(item["src"]).with_suffix(".st_lpips.png")
            # The square root shows the small differences of high rates beside those of low ones.
            shares = np.sqrt(np.clip(values / scale, 0, 1))
            picture = (255 * colors(shares)[..., :3]).round()
            Image.fromarray(picture.astype(np.uint8)).save(folder / target)
            item["map"] = target.as_posix()


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
