"""Factory for metrics that are computed by pyiqa."""

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
    """Define an `ImageMetric` that pyiqa computes; it is not measured by default.

    Args:
        key, label, kind, order, better, variant: see `Metric`.
        name: pyiqa's name of the metric; "" selects the key.
        needs: network of a learned metric, for messages.
        min_side: shortest supported side, see `networks.pyiqa.PyiqaMetric`.
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
