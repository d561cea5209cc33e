"""Mean intersection over union of a reconstruction's segmentation and a label map."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import AnnotatedMeasure, AnnotatedMetric

if TYPE_CHECKING:
    from torch import Tensor

# A network for COCO-Stuff's 171 classes. PerCo uses a better network, ViT-Adapter, which is on no
# hub. The mIoU of originals is lower with this one, so values are not comparable with the paper's.
SEGMENTATION = (
    "hf://facebook/maskformer-resnet101-coco-stuff@a3030115f23b2b1ecb4bf1cc18ae59fcc8358318"
)


def build_segmentation(weights: str | None) -> AnnotatedMeasure:
    """Build `networks.segmentation.Overlaps`."""
    from diffcodec.metrics.networks.segmentation import Overlaps

    return Overlaps(weights or SEGMENTATION)


def mean_iou(sums: "Tensor") -> float:
    """Intersections, then unions of all classes (2 K,) -> 100 times the mean of their ratios.

    Classes that are neither in a label map nor predicted are ignored. Without any class, the result
    is NaN.
    """
    intersection, union = sums.double().chunk(2)
    present = union > 0
    return float(100 * (intersection[present] / union[present]).mean())


METRIC = AnnotatedMetric(
    "miou",
    "mIoU",
    kind="perception",
    unit="%",
    better="higher",
    order=31,
    needs="a segmentation network",
    default=False,
    annotation="label_map",
    option="datamodule.test.label_maps=FOLDER",
    build=build_segmentation,
    finish=mean_iou,
)
