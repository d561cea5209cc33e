"""Semantic segmentation of reconstructions, and its overlap with label maps."""

from typing import Any

import torch
from torch import Tensor, nn

IGNORED = 255


class Overlaps(nn.Module):
    """Computes intersections and unions of a label map and a frozen network's segmentation.

    Intersections and unions of each class are summed over the whole set before they are divided
    (PerCo, Sec. 4.1; Sushko et al., 2022).

    Args:
        source: `hf://owner/repo[@revision]`, or a folder written by `save_pretrained`: a model of
            transformers for semantic or universal segmentation, with its preprocessor. Its classes
            must be those of the label maps, in the same order.

    Raises:
        ValueError: the model cannot be loaded, or is not a segmentation network.
    """

    def __init__(self, source: str) -> None:
        from diffcodec.weights.sources import find_pipeline

        super().__init__()
        place, options = find_pipeline(source)
        try:
            self._processor, self.model = _load(place, options)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"could not load a segmentation network from {source!r}: {error}"
            ) from error
        self.num_classes = int(self.model.config.num_labels)
        self.requires_grad_(False).eval()

    def segment(self, x: Tensor) -> Tensor:
        """A uint8 image (3, H, W) -> class of each pixel (H, W)."""
        inputs = self._processor(images=[x.cpu()], return_tensors="pt").to(x.device)
        keys = ("pixel_values", "pixel_mask")
        out = self.model(**{key: inputs[key] for key in keys if key in inputs})
        (classes,) = self._processor.post_process_semantic_segmentation(
            out, target_sizes=[tuple(x.shape[-2:])]
        )
        labels: Tensor = classes
        return labels

    def forward(self, labels: Tensor, x: Tensor) -> Tensor:
        """A label map (H, W) and a uint8 image (3, H, W) -> intersections, then unions (2 K,).

        Pixels with label 255 have no class and are ignored.

        Raises:
            ValueError: the label map has a class that the network does not have.
        """
        labels = labels.to(x.device)
        labelled = labels != IGNORED
        true, predicted = labels[labelled], self.segment(x)[labelled]
        if true.numel() and int(true.max()) >= self.num_classes:
            raise ValueError(
                f"a label map has class {int(true.max())}, but the segmentation network has "
                f"{self.num_classes}: pass datamodule.test.label_values, or another network as "
                "callbacks.evaluation.weights.miou"
            )
        size = self.num_classes
        both = torch.bincount(true[true == predicted], minlength=size)
        either = torch.bincount(true, minlength=size) + torch.bincount(predicted, minlength=size)
        return torch.cat([both, either - both]).double()


def _load(place: str, options: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
    )

    config = AutoConfig.from_pretrained(place, **options)
    if type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        auto: Any = AutoModelForSemanticSegmentation
    elif type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
        auto = AutoModelForUniversalSegmentation
    else:
        raise ValueError(f"{type(config).__name__} is not the config of a segmentation network")
    processor = AutoImageProcessor.from_pretrained(place, **options)
    return processor, auto.from_pretrained(place, **options)
