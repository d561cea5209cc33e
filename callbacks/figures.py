"""Figures by matplotlib, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

REALISM = ("fid", "fd_random")
LABELS = {
    "psnr-rgb": "PSNR (dB)",
    "ms-ssim-rgb": "MS-SSIM",
    "fid": "FID",
    "fd_random": "Fréchet distance, random embedding",
    "lpips": "LPIPS",
}


def panels(curve: Mapping[str, Any]) -> list[str]:
    """Which metrics a curve's figure shows: fidelity, structure, and the best realism at hand."""
    results = curve["results"]
    realism = next((name for name in REALISM if name in results), None)
    wanted = ["psnr-rgb", "ms-ssim-rgb", *([realism] if realism else [])]
    return [name for name in wanted if name in results and any(_values(results[name]))]


def plot_curve(curve: Mapping[str, Any], path: Path) -> None:
    """Draw a curve against bits per pixel, with its ceilings, into a PNG."""
    names = panels(curve)
    figure = Figure(figsize=(4.2 * max(1, len(names)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    bpp = curve["results"]["bpp"]
    ceiling = curve["meta"].get("ceiling", {})
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        pairs = sorted(
            (x, y) for x, y in zip(bpp, curve["results"][name], strict=True) if y is not None
        )
        axis.plot(*zip(*pairs, strict=True), marker="o", markersize=4, label=curve["name"])
        if name in ceiling:
            axis.axhline(ceiling[name], color="grey", linestyle="--", linewidth=1)
            where = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "bottom"}
            label = axis.text(0.98, ceiling[name], "ceiling", color="grey", fontsize=8, **where)
            label.set_in_layout(False)
        axis.set_xlabel("bits per pixel")
        axis.set_ylabel(LABELS.get(name, name))
        if max(bpp) > 20 * min(bpp):
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
        if name in REALISM:
            axis.set_title("lower is better", fontsize=8)
    meta = curve["meta"]
    figure.suptitle(
        f"{curve['name']} on {meta.get('dataset')} ({meta.get('num_images')} images)", fontsize=11
    )
    figure.savefig(path, dpi=110)


def _values(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
