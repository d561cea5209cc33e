"""An unconditional pixel-space diffusion model with the interface of a latent diffusion model.

Its latents are the pixels. The loader for diffusers' layout is also used by the enhancer's priors.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffcodec.diffusion.schedule import scheduler_facts
from diffcodec.weights.configuration import configured
from diffcodec.weights.local_files import is_folder, local_path
from diffcodec.weights.sources import find_pipeline

if TYPE_CHECKING:
    from diffusers import UNet2DModel

CONTINUOUS = ("EDM", "CMStochastic")  # schedulers of models without discrete timesteps


class PixelSpace(nn.Module):
    """Images in [0, 1] <-> images in [-1, 1], with the interface of `LatentSpace`."""

    channels = 3
    stride = 1

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 3, H, W) in [-1, 1]."""
        return x * 2 - 1

    def decode(self, latent: Tensor) -> Tensor:
        """Inverse of `encode`, not clamped."""
        return (latent + 1) / 2


class PixelBackbone(nn.Module):
    """An unconditional U-Net with the interface of `Backbone`, except for its text methods.

    Args:
        unet: the U-Net.
        alphas_cumprod: abar of the training timesteps, (N,) falling.
        prediction: prediction type of the U-Net: `x0`, `eps` or `v`.
        class_label: class index for class-conditional networks.
    """

    takes_text = False
    trained = True
    tokenizer = None

    def __init__(
        self,
        unet: "UNet2DModel",
        *,
        alphas_cumprod: Tensor,
        prediction: str,
        class_label: int = 0,
    ) -> None:
        super().__init__()
        self.latents = PixelSpace()
        self.unet: Any = unet
        self.alphas_cumprod = alphas_cumprod.double()
        self.prediction = prediction
        self.class_label = class_label

    @property
    def stride(self) -> int:
        """Downsampling factor of the U-Net; both sides of an image must be multiples of it."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` the U-Net."""
        self.unet.compile(*args, **kwargs)

    def null_text(self) -> Tensor:
        """A placeholder (1, 1, 1), which the network ignores."""
        return torch.zeros(1, 1, 1)

    def null_condition(self) -> dict[str, Tensor]:
        """See `Backbone.null_condition`."""
        return {"text": self.null_text()}

    def text_condition(self, texts: list[str]) -> dict[str, Tensor]:
        """Not supported.

        Raises:
            ValueError: always.
        """
        return {"text": self.embed_text(texts)}

    def size_condition(self, height: int, width: int) -> dict[str, Tensor]:
        """See `Backbone.size_condition`."""
        return {}

    def embed_text(self, texts: list[str]) -> Tensor:
        """Not supported.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"a pixel-space model takes no text, got {texts}")

    def network(self, x_t: Tensor, time: Tensor, *, text: Tensor) -> Tensor:
        """Evaluate the U-Net.

        Args:
            x_t: noisy images (B, 3, H, W) of unit variance.
            time: timestep, () or (B,).
            text: unused.
        """
        labels = None
        if self.unet.config.num_class_embeds is not None:
            labels = torch.full((len(x_t),), self.class_label, device=x_t.device)
        out: Tensor = self.unet(x_t, time, class_labels=labels).sample
        return out[:, :3]  # drop the variance that some networks also predict


@configured
def pixel_backbone(source: str, *, class_label: int = 0) -> PixelBackbone:
    """Load a pixel-space diffusion model with discrete timesteps, such as DDPM, in float32.

    Args:
        source: `hf://owner/repo[@revision]` or a folder, in diffusers' layout.
        class_label: class index for class-conditional networks.

    Raises:
        ValueError: the source cannot be loaded, or its process is not discrete.
    """
    unet, config = load_unconditional(source)
    name = str(config.get("_class_name", ""))
    if name.startswith(CONTINUOUS):
        raise ValueError(
            f"{source!r} has no timesteps ({name}): pass a discrete model such as DDPM"
        )
    alphas_cumprod, prediction = scheduler_facts(config)
    return PixelBackbone(
        unet, alphas_cumprod=alphas_cumprod, prediction=prediction, class_label=class_label
    )


def load_unconditional(source: str) -> tuple[Any, dict[str, Any]]:
    """Load a UNet2DModel in float32, and its scheduler config.

    Args:
        source: `hf://owner/repo[@revision]` or a folder, in diffusers' layout. U-Net and scheduler
            are in `unet/` and `scheduler/`, or in the same folder, as in early repositories.

    Raises:
        ValueError: U-Net or scheduler cannot be loaded.
    """
    folder, parts = local_path(source), ("unet", "scheduler")
    if is_folder(folder):
        return _load(source, *(part if (folder / part).is_dir() else None for part in parts))
    try:
        return _load(source, *parts)
    except ValueError:
        return _load(source, None, None)


def _load(
    source: str, unet_folder: str | None, scheduler_folder: str | None
) -> tuple[Any, dict[str, Any]]:
    from diffusers import DDPMScheduler, UNet2DModel

    place, options = find_pipeline(source)
    try:
        unet = UNet2DModel.from_pretrained(place, subfolder=unet_folder, **options)
        config = DDPMScheduler.load_config(place, subfolder=scheduler_folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"could not load an unconditional U-Net and its scheduler from {source!r} (a hub "
            f"repository or a folder in diffusers' layout): {error}"
        ) from error
    return unet.float(), dict(config)
