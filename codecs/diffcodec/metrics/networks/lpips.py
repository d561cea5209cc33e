"""The networks of LPIPS."""

import warnings

from torch import Tensor, nn

from diffcodec.metrics.networks.originals import normalized

NETS = ("alex", "vgg", "squeeze")
MIN_SIDE = 32  # the networks downsample five times by 2


class Lpips(nn.Module):
    """LPIPS 0.1 (Zhang et al., 2018), frozen.

    Args:
        net: network, `alex` (for evaluation), `vgg` or `squeeze`.
        weights: source of torchvision's weights of this network, see `diffcodec.weights`; None
            reads the torch hub cache or downloads them. The linear layers of LPIPS are part of its
            package.

    Raises:
        ValueError: the network is unknown, or its weights cannot be loaded.
    """

    def __init__(self, net: str, weights: str | None = None) -> None:
        from diffcodec.weights.loading import load_checkpoint
        from diffcodec.weights.sources import one_at_a_time

        if net not in NETS:
            raise ValueError(f"unknown LPIPS network {net!r}, choose from {NETS}")
        super().__init__()
        try:
            import lpips

            with warnings.catch_warnings(), one_at_a_time():
                warnings.simplefilter("ignore", UserWarning)  # torchvision's old argument names
                self.model = lpips.LPIPS(net=net, pnet_rand=weights is not None, verbose=False)
            if weights is not None:
                state = load_checkpoint(weights)
                # LPIPS splits `features` into slices and keeps torchvision's layer indices.
                self.model.net.load_state_dict(
                    {
                        key: state[f"features.{key.partition('.')[2]}"]
                        for key in self.model.net.state_dict()
                    }
                )
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"no weights for LPIPS ({net}): {error}") from error
        self.requires_grad_(False).eval()

    def distance(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [-1, 1]."""
        distances: Tensor = self.model(x, x_hat).flatten()
        return distances

    def forward(self, x: Tensor, x_hat: Tensor) -> float | None:
        """LPIPS of two uint8 images (3, H, W); None if a side is shorter than 32 pixels."""
        if min(x.shape[-2:]) < MIN_SIDE:
            return None
        return float(self.distance(normalized(x), normalized(x_hat)))
