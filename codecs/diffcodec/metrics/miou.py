"""Mean intersection over union: whether a segmentation network still finds what was there."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import AnnotatedMeasure, AnnotatedMetric

if TYPE_CHECKING:
    from torch import Tensor

# Of COCO-Stuff's 171 classes, as PerCo's ViT-Adapter, which is on no hub and a better one: the mIoU
# of originals is lower with this one, and figures compare with one another only.
SEGMENTATION = (
    "hf://facebook/maskformer-resnet101-coco-stuff@a3030115f23b2b1ecb4bf1cc18ae59fcc8358318"
)


def build_segmentation(weights: str | None) -> AnnotatedMeasure:
    """The network and its counts, see `networks.segmentation.Overlaps`."""
    from diffcodec.metrics.networks.segmentation import Overlaps

    return Overlaps(weights or SEGMENTATION)


def mean_iou(sums: "Tensor") -> float:
    """Intersections of all classes, then unions (2 K,) -> 100 times the mean of their ratios.

    A class that is neither in a label map nor predicted is left out; NaN where there is none.
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
