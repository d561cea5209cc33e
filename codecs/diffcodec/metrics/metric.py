"""Definition of metrics: name, direction, required weights and computation.

A metric is an object `METRIC` in its own module of this package. All code that computes or displays
metrics (evaluation, tables, figures, W&B, the comparison) looks them up in `diffcodec.metrics`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["rate", "distortion", "perception", "time"]
KINDS: tuple[Kind, ...] = ("rate", "distortion", "perception", "time")
DECADE = 10.0


@dataclass(frozen=True)
class Metric:
    """A metric that can be displayed; the subclasses below can also be computed.

    Attributes:
        key: unique name in `images.csv`, `curve.json`, W&B and the comparison page; that of
            CompressAI's results schema if it exists there.
        label: display label.
        kind: `rate`, `distortion` (distance from the original), `perception` (realism) or `time`.
        column: heading of a table's column, if the label is too long.
        unit: unit of the values; "" if there is none.
        better: `higher`, `lower`, or `neither`.
        order: display order among the metrics of its kind.
        headline: whether overviews and tables show the metric.
        needs: required weights, for messages; the metric is skipped without them. "" requires none.
        variant: definition of the metric, if there are several; compared curves must agree in it.
        default: whether the metric is measured by default.
    """

    key: str
    label: str
    kind: Kind
    column: str = ""
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    order: int = 100
    headline: bool = False
    needs: str = ""
    variant: str = ""
    default: bool = True

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def axis_label(self) -> str:
        """Label of an axis, with the unit, and with the direction if lower is better."""
        return self.heading + (", lower is better" if self.better == "lower" else "")

    def counted(self, metas: Iterable[Mapping[str, Any]]) -> str:
        """The number of samples to display with a value; "" unless it is a distance of sets.

        Args:
            metas: `meta` of the curves that have the metric.
        """
        return ""

    def logarithmic(self, values: Iterable[float]) -> bool:
        """Whether to plot the values of all curves in a figure on a logarithmic axis."""
        return (self.kind == "time" or self.better == "lower") and spans_a_decade(values)


ImageMeasure = Callable[["Tensor", "Tensor"], float | None]
"""Two uint8 images (3, H, W), original and reconstruction -> value, or None if undefined."""


@dataclass(frozen=True)
class ImageMetric(Metric):
    """A metric of one image; the value of a set is the mean.

    Attributes:
        build: function from the source of its weights (see `diffcodec.weights`; None selects the
            default source) to the measure. It raises ValueError if the weights cannot be loaded. A
            measure with a network is an `nn.Module`, and is moved to the codec's device.
    """

    build: Callable[[str | None], ImageMeasure] | None = None


AnnotatedMeasure = Callable[[Any, "Tensor"], "Tensor"]
"""Annotation of an image and its uint8 reconstruction (3, H, W) -> statistics (S,)."""


@dataclass(frozen=True)
class AnnotatedMetric(Metric):
    """A metric of reconstructions and the data set's annotations.

    Attributes:
        annotation: key of the required annotation in a batch, such as `score_caption`.
        option: options of the datamodule that provide the annotation, for messages.
        build: function from the source of the network's weights (None selects the default source)
            to the measure. It raises ValueError if the weights cannot be loaded. A measure with a
            network is an `nn.Module`, and is moved to the codec's device.
        finish: function from the statistics, summed over images, to the value.
    """

    annotation: str = ""
    option: str = ""
    build: Callable[[str | None], AnnotatedMeasure] | None = None
    finish: "Callable[[Tensor], float] | None" = None


@dataclass(frozen=True)
class SetMetric(Metric):
    """A distance between features of originals (real) and reconstructions (fake).

    Attributes:
        embedding: name of the features; metrics with the same name share them.
        build: function from the source of the embedding's weights (None selects the default source)
            to a network, which maps uint8 images (B, 3, H, W) to features (B, D). It raises
            ValueError if the weights cannot be loaded.
        distance: function from real and fake features, (N, D) each, to the value.
    """

    embedding: str = ""
    build: "Callable[[str | None], nn.Module] | None" = None
    distance: "Callable[[Tensor, Tensor], float] | None" = None

    def counted(self, metas: Iterable[Mapping[str, Any]]) -> str:
        """The number of patches or images per set, such as `192 patches` or `9 to 192 patches`."""
        stated = [meta for meta in metas if meta.get("num_patches")]
        counts = sorted({meta["num_patches"] for meta in stated})
        whole = {meta.get("protocol") in ("whole", "clean") for meta in stated}
        if not counts:
            return ""
        number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{number} {'images' if whole == {True} else 'patches'}"


@dataclass(frozen=True)
class Coding:
    """Stream lengths and coding times of one image.

    Attributes:
        height, width: size of the image in pixels.
        num_bytes: length of the stream, including the header; None without a stream, as for a
            ceiling.
        num_payload_bytes: length of the stream without container header and checksum.
        num_part_bytes: lengths of the parts that the codec counts separately, by name, see
            `Codec.num_part_bytes`.
        encoding_seconds, decoding_seconds: wall-clock times; None if not measured.
    """

    height: int
    width: int
    num_bytes: int | None = None
    num_payload_bytes: int | None = None
    num_part_bytes: Mapping[str, int] = field(default_factory=dict)
    encoding_seconds: float | None = None
    decoding_seconds: float | None = None


@dataclass(frozen=True)
class CodingMetric(Metric):
    """A rate or a time; the value of a set is the mean.

    Attributes:
        read: function from a `Coding` to the value, or None if it has none.
        of_all: whether every codec has the metric; otherwise its column is omitted without values.
    """

    read: Callable[[Coding], float | None] | None = None
    of_all: bool = True


def spans_a_decade(values: Iterable[float]) -> bool:
    """Whether all values are above 0 and span a factor of ten or more."""
    found: list[Any] = list(values)
    return bool(found) and 0 < DECADE * min(found) <= max(found)
