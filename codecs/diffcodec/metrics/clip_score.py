"""CLIP score: similarity of a reconstruction and a caption of the original."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import AnnotatedMeasure, AnnotatedMetric

if TYPE_CHECKING:
    from torch import Tensor

CLIP = "hf://openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"


def build_clip(weights: str | None) -> AnnotatedMeasure:
    """Build `networks.clip.ClipSimilarity`."""
    from diffcodec.metrics.networks.clip import ClipSimilarity

    return ClipSimilarity(weights or CLIP)


def mean(sums: "Tensor") -> float:
    """(sum of the scores, their number) -> mean."""
    return float(sums[0] / sums[1])


METRIC = AnnotatedMetric(
    "clip_score",
    "CLIP score",
    kind="perception",
    column="CLIP",
    better="higher",
    order=30,
    needs="CLIP ViT-B/32",
    default=False,
    annotation="score_caption",
    option="datamodule.test.captions=FILE datamodule.test.score_caption_index=N",
    build=build_clip,
    finish=mean,
)
