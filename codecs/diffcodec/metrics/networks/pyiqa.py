"""Metrics of the package pyiqa, which has most of CDC's sixteen metrics (Sec. 4).

It is an optional extra (`pip install 'diffcodec[iqa]'`), because its licence, PolyForm
Noncommercial 1.0.0, excludes commercial use. For learned metrics, pyiqa downloads the authors'
networks on first use.
"""

from torch import Tensor, nn

EXTRA = "the package pyiqa (for non-commercial use): pip install 'diffcodec[iqa]'"


class PyiqaMetric(nn.Module):
    """A metric of pyiqa with its default settings, frozen.

    Args:
        name: pyiqa's name of the metric.
        weights: source of the network's weights, see `diffcodec.weights`; None lets pyiqa download
            them.
        min_side: shortest supported side in pixels; smaller images have no value.

    Raises:
        ValueError: pyiqa is not installed, the weights cannot be loaded, or weights are given for a
            metric without a network.
    """

    def __init__(self, name: str, weights: str | None = None, *, min_side: int = 1) -> None:
        super().__init__()
        try:
            import pyiqa
        except ImportError as error:
            raise ValueError(f"{name} needs {EXTRA} ({error})") from error
        from diffcodec.weights.sources import find_file, one_at_a_time

        options = {} if weights is None else {"pretrained_model_path": str(find_file(weights))}
        try:
            with one_at_a_time():
                self.metric = pyiqa.create_metric(name, device="cpu", **options)
        except TypeError as error:
            raise ValueError(f"{name} is a closed form and takes no weights: {error}") from error
        except Exception as error:  # its downloads fail by OSError, URLError, RuntimeError, …
            raise ValueError(f"no weights for {name} of pyiqa: {error}") from error
        self.min_side = min_side
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, x_hat: Tensor) -> float | None:
        """Value for two uint8 images (3, H, W); None if a side is too short.

        No-reference metrics use the reconstruction only.
        """
        if min(x.shape[-2:]) < self.min_side:
            return None
        reference, decoded = (image[None].float() / 255 for image in (x, x_hat))
        if self.metric.metric_mode == "NR":
            return float(self.metric(decoded))
        return float(self.metric(decoded, reference))
