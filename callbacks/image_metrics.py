"""What is measured on one image: PSNR, MS-SSIM, LPIPS, all on 8-bit pictures."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

LPIPS_NETS = ("alex", "vgg", "squeeze")
MS_SSIM_MIN_SIDE = 161  # five scales of an 11-pixel window: (11 - 1) * 2^4 + 1


def psnr(x: Tensor, x_hat: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images of one shape; infinite if equal."""
    mse = (x.double() - x_hat.double()).square().mean()
    return float(10 * torch.log10(255.0**2 / mse))


def ms_ssim(x: Tensor, x_hat: Tensor) -> float | None:
    """MS-SSIM (Wang et al., 2003) of two uint8 images (3, H, W); None under 161 pixels a side."""
    from pytorch_msssim import ms_ssim as score

    if min(x.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return None
    return float(score(x[None].float(), x_hat[None].float(), data_range=255.0))


def load_lpips(net: str, weights: str | None = None) -> nn.Module:
    """LPIPS 0.1 (Zhang et al., 2018), frozen.

    Args:
        net: `alex` (evaluation), `vgg` or `squeeze`.
        weights: torchvision's weights of that network, as a file; null takes them from the torch
            hub cache or downloads them. LPIPS's own linear layers ship with its package.

    Raises:
        ValueError: an unknown net, or its weights cannot be had.
    """
    import lpips

    if net not in LPIPS_NETS:
        raise ValueError(f"unknown LPIPS network {net!r}, choose from {LPIPS_NETS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it uses torchvision's old argument names
            model = lpips.LPIPS(net=net, pnet_rand=weights is not None, verbose=False)
        if weights is not None:
            state = torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True)
            # LPIPS cuts `features` into slices and keeps torchvision's layer numbers.
            model.net.load_state_dict(
                {k: state[f"features.{k.partition('.')[2]}"] for k in model.net.state_dict()}
            )
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"no weights for LPIPS ({net}): {error}") from error
    return model.requires_grad_(False).eval()


def lpips_distance(model: nn.Module, x: Tensor, x_hat: Tensor) -> float:
    """LPIPS of two uint8 images (3, H, W)."""
    a, b = (image[None].float().div(127.5).sub(1) for image in (x, x_hat))
    return float(model(a, b))
