"""Names and signs of what is measured, as readers know them."""

from collections.abc import Iterable

from experiments.comparison.joining import Curve

LABELS = {
    "bpp": "bits per pixel",
    "bpp-payload": "bits per pixel without header",
    "psnr-rgb": "PSNR",
    "ms-ssim-rgb": "MS-SSIM",
    "lpips": "LPIPS",
    "dists": "DISTS",
    "fid": "FID",
    "kid": "KID",
    "fd_random": "FD-random",
    "kd_random": "KD-random",
    "encoding_time": "encoding time",
    "decoding_time": "decoding time",
}
UNITS = {"psnr-rgb": "dB", "encoding_time": "s", "decoding_time": "s"}
HIGHER_IS_BETTER = {"psnr-rgb", "ms-ssim-rgb"}
LOWER_IS_BETTER = {"lpips", "dists", "fid", "kid", "fd_random", "kd_random"}
TIMES = ("encoding_time", "decoding_time")
RATES = ("bpp", "bpp-payload")
REALISM = ("fid", "kid", "fd_random", "kd_random", "lpips", "dists")


def find_metrics(curves: Iterable[Curve]) -> list[str]:
    """What at least one curve has, rates aside: known ones first, then the others by name."""
    found = {m for curve in curves for point in curve.points for m in point.metrics}
    known = [name for name in LABELS if name in found and name not in (*RATES, *TIMES)]
    others = sorted(found - {*known, *RATES, *TIMES})
    return [*known, *others, *(name for name in TIMES if name in found)]


def axis_label(metric: str) -> str:
    """Label of an axis, with unit and direction."""
    label = LABELS.get(metric, metric)
    if metric in UNITS:
        label += f" ({UNITS[metric]})"
    if metric in LOWER_IS_BETTER:
        label += ", lower is better"
    return label
