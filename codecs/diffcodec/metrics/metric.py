"""What a metric is: its name on every page, which way is better, what it needs, how it is computed.

A metric is one object, `METRIC`, in one file of this package. Whatever shows or computes metrics
(evaluation, tables, figures, W&B, the comparison) asks `diffcodec.metrics` for them and knows none
by name.
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
    """A metric that this project can show; one that it can compute is of a class below.

    Attributes:
        key: its one name: in CompressAI's results schema where that has it, in `images.csv`,
            `curve.json`, W&B and on the page.
        label: as readers know it.
        kind: `rate`, `distortion` (distance of each picture from its original), `perception` (how
            real pictures look) or `time`.
        column: heading of a table's column, where the label is too long for one.
        unit: of its values; "" has none.
        better: `higher`, `lower`, or `neither`.
        order: among the metrics of its kind.
        headline: it has a place in overviews and a column in tables.
        needs: the weights without which it is left out, for messages; "" needs none.
        variant: which of several definitions it follows; curves that are compared must agree in it.
        default: it is measured unless other metrics are asked for.
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
        """Label of an axis, with unit and, where lower is better, the direction."""
        return self.heading + (", lower is better" if self.better == "lower" else "")

    def counted(self, metas: Iterable[Mapping[str, Any]]) -> str:
        """What a value is taken over, to stand beside it: "" unless it is a distance of sets.

        Args:
            metas: `meta` of the curves that have it.
        """
        return ""

    def logarithmic(self, values: Iterable[float]) -> bool:
        """Whether its values, of all curves in a figure, are best drawn by their logarithm."""
        return (self.kind == "time" or self.better == "lower") and spans_a_decade(values)


ImageMeasure = Callable[["Tensor", "Tensor"], float | None]
"""Two uint8 images (3, H, W), original and decoded -> value, None where it has none."""


@dataclass(frozen=True)
class ImageMetric(Metric):
    """A metric of one image; the set's value is the mean.

    Attributes:
        build: source of its weights (see `diffcodec.weights`), None for the usual place -> how it
            is computed. Raises ValueError where the weights cannot be had. A measure that holds a
            network is an `nn.Module`, and is moved to the device of the codec.
    """

    build: Callable[[str | None], ImageMeasure] | None = None


AnnotatedMeasure = Callable[[Any, "Tensor"], "Tensor"]
"""What the data set says of an image, and the decoded uint8 image (3, H, W) -> numbers (S,)."""


@dataclass(frozen=True)
class AnnotatedMetric(Metric):
    """A metric of decoded pictures and of what the data set says of the images.

    Attributes:
        annotation: what it needs, by its key in a batch, as in `score_caption`.
        option: how a datamodule is given that, for messages.
        build: source of its network's weights, None for the usual place -> how an image's numbers
            are computed. Raises ValueError where the weights cannot be had. A measure that holds a
            network is an `nn.Module`, and is moved to the device of the codec.
        finish: these numbers, summed over images -> value.
    """

    annotation: str = ""
    option: str = ""
    build: Callable[[str | None], AnnotatedMeasure] | None = None
    finish: "Callable[[Tensor], float] | None" = None


@dataclass(frozen=True)
class SetMetric(Metric):
    """A distance between the features of originals (real) and decoded pictures (fake).

    Attributes:
        embedding: name of the features; metrics of one name share them.
        build: source of the embedding's weights, None for the usual place -> network of uint8
            images (B, 3, H, W) to features (B, D). Raises ValueError where they cannot be had.
        distance: features (N, D) of both sides -> value.
    """

    embedding: str = ""
    build: "Callable[[str | None], nn.Module] | None" = None
    distance: "Callable[[Tensor, Tensor], float] | None" = None

    def counted(self, metas: Iterable[Mapping[str, Any]]) -> str:
        """The number of patches or images a side, such as `192 patches`, `9 to 192 patches`."""
        stated = [meta for meta in metas if meta.get("num_patches")]
        counts = sorted({meta["num_patches"] for meta in stated})
        whole = {meta.get("protocol") in ("whole", "clean") for meta in stated}
        if not counts:
            return ""
        number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{number} {'images' if whole == {True} else 'patches'}"


@dataclass(frozen=True)
class Coding:
    """The bytes and times of coding one image.

    Attributes:
        height, width: of the image, in pixels.
        num_bytes: of its stream, header included; None for a picture that no stream makes.
        num_payload_bytes: the same without container header and checksum.
        num_part_bytes: of what a codec counts apart, by name, see `Codec.num_part_bytes`.
        encoding_seconds, decoding_seconds: None where it was not timed.
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
    """A metric of the coding itself: rates and times; the set's value is the mean.

    Attributes:
        read: what was coded -> value, None where there is none.
        of_all: every codec has it; of others there is no column where there is no value.
    """

    read: Callable[[Coding], float | None] | None = None
    of_all: bool = True


def spans_a_decade(values: Iterable[float]) -> bool:
    """Whether values, all above 0, differ by a factor of ten or more."""
    found: list[Any] = list(values)
    return bool(found) and 0 < DECADE * min(found) <= max(found)
