"""The latent diffusion model that PerCo is built on: autoencoder, U-Net, text encoder, schedule."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.perco.latents import LatentSpace
from diffcodec.weights import load_checkpoint, load_strict, state_dict_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

Tokenizer = Callable[[list[str]], Tensor]


class Backbone(nn.Module):
    """A text-conditioned latent diffusion model.

    Args:
        vae, unet, text_encoder: its networks, of the classes of Stable Diffusion.
        tokenizer: texts -> token indices (B, L).
        alphas_cumprod: abar of its training timesteps, (N,) falling.
        prediction: `eps` or `v`, what the U-Net predicts.
        patch, latent_scale, latent_shift: of the latent space.
        hyper_encoder_weights: what a checkpoint of PerCo (SD) has beside the backbone: HyperEncoder
            options and state dict.

    Attributes:
        perco_state: what this project's PerCo files hold beside the backbone, see `load_weights`.
    """

    def __init__(
        self,
        vae: "AutoencoderKL",
        unet: "UNet2DConditionModel",
        text_encoder: "CLIPTextModel",
        tokenizer: Tokenizer,
        *,
        alphas_cumprod: Tensor,
        prediction: str,
        patch: int = 1,
        latent_scale: float = 1.0,
        latent_shift: float = 0.0,
        hyper_encoder_weights: tuple[dict[str, Any], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.latents = LatentSpace(vae, patch=patch, scale=latent_scale, shift=latent_shift)
        self.unet: Any = unet
        self.text_encoder: Any = text_encoder
        self.tokenizer = tokenizer
        self.alphas_cumprod = alphas_cumprod.double()
        self.prediction = prediction
        self.hyper_encoder_weights = hyper_encoder_weights
        self.perco_state: dict[str, Tensor] = {}

    @property
    def local_channels(self) -> int:
        """Channels that the U-Net takes beside the noisy latent: those of z_hat."""
        return int(self.unet.config.in_channels) - self.latents.channels

    def widen(self, local_channels: int) -> None:
        """Let the U-Net's first convolution see z_hat beside the noisy latent (Sec. 3.2).

        The old channels' weights are kept, the new ones random; a convolution that is already that
        wide is left as it is. Without local channels it becomes what it does when they are zero.

        Raises:
            ValueError: it has been widened to another number of channels.
        """
        if self.local_channels == local_channels:
            return
        if self.local_channels and local_channels:
            raise ValueError(
                f"this U-Net takes {self.local_channels} local channels, not {local_channels}: "
                f"set M={self.local_channels}"
            )
        old: Any = self.unet.conv_in
        kept = self.latents.channels
        in_channels = kept + local_channels
        # A new module: `from_pretrained` with another in_channels leaves the weights uninitialised.
        new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, padding=old.padding)
        new.to(old.weight)
        with torch.no_grad():
            new.weight[:, :kept] = old.weight[:, :kept]
            new.get_parameter("bias").copy_(old.bias)
        self.unet.conv_in = new
        self.unet.register_to_config(in_channels=in_channels)

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts -> what the U-Net attends to, (B, L, D)."""
        device = next(self.text_encoder.parameters()).device
        embedding: Tensor = self.text_encoder(self.tokenizer(texts).to(device)).last_hidden_state
        return embedding

    def network(
        self, x_t: Tensor, time: Tensor, *, text: Tensor, local: Tensor | None = None
    ) -> Tensor:
        """The U-Net.

        Args:
            x_t: noisy latents (B, C, H, W) of unit variance.
            time: timestep, () or (B,).
            text: embeddings (B, L, D).
            local: z_hat (B, M, h, w), upsampled to the latents' size; a U-Net that was not widened
                takes none.
        """
        if local is not None:
            x_t = torch.cat([x_t, F.interpolate(local, size=x_t.shape[-2:], mode="nearest")], 1)
        out: Tensor = self.unet(x_t, time, encoder_hidden_states=text).sample
        return out

    def load_weights(self, source: str) -> None:
        """Load a backbone, as `experiment=perco/backbone` or `experiment=perco/small` wrote it.

        A whole PerCo's null text and hyper-encoders are kept in `perco_state`, for a PerCo on this
        backbone.

        Raises:
            ValueError: it cannot be had or does not fit.
        """
        state = state_dict_of(load_checkpoint(source, package="diffcodec.perco"), prefix="model.")
        beside = {k: v for k, v in state.items() if not k.startswith("backbone.")}
        state = state_dict_of(state, prefix="backbone.")
        first = state.get("unet.conv_in.weight")
        if first is not None:
            self.widen(first.shape[1] - self.latents.channels)
        load_strict(self, state, source=source)
        self.perco_state = beside

    def load_latents(self, source: str) -> None:
        """Load the autoencoder alone, as `experiment=perco/autoencoder` wrote it.

        Raises:
            ValueError: it cannot be had or does not fit.
        """
        state = state_dict_of(load_checkpoint(source, package="diffcodec.perco"), prefix="latents.")
        load_strict(self.latents, state, source=source)


def frozen(module: nn.Module) -> nn.Module:
    """The module without gradients, in eval mode."""
    return module.requires_grad_(False).eval()
