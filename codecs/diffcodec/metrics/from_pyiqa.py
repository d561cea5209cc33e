"""What the metrics that pyiqa computes have in common."""

from diffcodec.metrics.metric import ImageMeasure, ImageMetric, Kind


def pyiqa_metric(
    key: str,
    label: str,
    *,
    kind: Kind,
    order: int,
    name: str = "",
    better: str = "higher",
    variant: str = "",
    needs: str = "",
    min_side: int = 1,
) -> ImageMetric:
    """An `ImageMetric` that pyiqa computes, where it is asked for.

    Args:
        key, label, kind, order, better, variant: as of `Metric`.
        name: as pyiqa calls it; "" is the key.
        needs: the network of a learned one.
        min_side: as of `networks.pyiqa.PyiqaMetric`.
    """

    def build(weights: str | None) -> ImageMeasure:
        from diffcodec.metrics.networks.pyiqa import PyiqaMetric

        return PyiqaMetric(name or key, weights, min_side=min_side)

    return ImageMetric(
        key,
        label,
        kind=kind,
        better=better,  # type: ignore[arg-type]
        order=order,
        needs=f"pyiqa{f' and {needs}' if needs else ''}",
        variant=variant,
        default=False,
        build=build,
    )
