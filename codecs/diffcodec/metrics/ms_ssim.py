"""Multi-scale structural similarity (MS-SSIM) of 8-bit RGB images."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import ImageMetric

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, the finest first
WINDOW, SIGMA = 11, 1.5
MIN_SIDE = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1


def ms_ssim(x: "Tensor", x_hat: "Tensor") -> float | None:
    """MS-SSIM (Wang et al., 2003) of two uint8 images (3, H, W); None under 161 pixels a side.

    Before downsampling, an odd side is padded by replicating its last line, as in TensorFlow and
    NeuralCompression. pytorch_msssim, from which the windows are, pads both ends with zeros. These
    are identical in both images and raise the score.
    """
    import torch
    from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim
    from torch.nn import functional as F

    if min(x.shape[-2:]) < MIN_SIDE:
        return None
    pair = torch.stack([x, x_hat]).float()
    window = _fspecial_gauss_1d(WINDOW, SIGMA).repeat(3, 1, 1, 1).to(pair)
    score = pair.new_ones(3)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            odd = (0, pair.shape[-1] % 2, 0, pair.shape[-2] % 2)
            pair = F.avg_pool2d(F.pad(pair, odd, mode="replicate"), 2)
        similarity, structure = _ssim(*pair.split(1), 255.0, window, size_average=False)
        is_last = scale == len(WEIGHTS) - 1
        score = score * torch.relu(similarity if is_last else structure)[0] ** weight
    return float(score.mean())


METRIC = ImageMetric(
    "ms-ssim-rgb",
    "MS-SSIM",
    kind="distortion",
    better="higher",
    order=2,
    headline=True,
    build=lambda weights: ms_ssim,
)
