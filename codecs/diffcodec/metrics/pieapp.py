"""PieAPP (Prashnani et al., CVPR 2018): a distance learned from pairwise human preferences."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "pieapp",
    "PieAPP",
    kind="perception",
    order=4,
    better="lower",
    needs="PieAPP's network",
    min_side=64,
)
