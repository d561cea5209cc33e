"""Most apparent distortion (Larson & Chandler, 2010); takes seconds per image on a CPU."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "mad",
    "MAD",
    kind="distortion",
    order=16,
    better="lower",
    min_side=16,
)
