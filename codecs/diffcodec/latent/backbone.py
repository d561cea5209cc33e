"""A text-conditioned latent diffusion model: autoencoder, U-Net, text encoder, schedule."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

Tokenizer = Callable[[list[str]], Tensor]
"""Texts -> token indices (B, L)."""

MEMORY = ("full", "frozen", "all")
_NAME = "backbone."  # of a backbone in what is built on it


class Backbone(nn.Module):
    """A text-conditioned latent diffusion model.

    Args:
        latents: images <-> latents.
        unet, text_encoder: the other networks, of the classes of Stable Diffusion.
        tokenizer: texts -> token indices (B, L).
        alphas_cumprod: abar of its training timesteps, (N,) falling.
        prediction: `x0`, `eps` or `v`, what the U-Net predicts.

    Attributes:
        trained: whether it has weights of somewhere.
        memory: which networks hold their weights in bfloat16, see `hold`.
        perco_state: what this project's PerCo files hold beside the backbone, see `load_weights`.
        hyper_encoder_weights: what a released checkpoint of PerCo (SD) has beside the backbone:
            options of its hyper-encoder and a state dict; None of any other.
    """

    takes_text = True

    def __init__(
        self,
        latents: LatentSpace,
        unet: "UNet2DConditionModel",
        text_encoder: "CLIPTextModel",
        tokenizer: Tokenizer,
        *,
        alphas_cumprod: Tensor,
        prediction: str,
    ) -> None:
        super().__init__()
        self.latents = latents
        self.unet: Any = unet
        self.text_encoder: Any = text_encoder
        self.tokenizer = tokenizer
        self.alphas_cumprod = alphas_cumprod.double()
        self.prediction = prediction
        self.trained = False
        self.memory = "full"
        self.perco_state: dict[str, Tensor] = {}
        self.hyper_encoder_weights: tuple[dict[str, Any], dict[str, Tensor]] | None = None

    @property
    def held_in_bfloat16(self) -> bool:
        """Whether networks hold their weights in bfloat16, and convert what goes in and out."""
        return self.memory != "full"

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """All of them."""
        return (self.text_encoder,)

    @property
    def local_channels(self) -> int:
        """Channels of a spatial condition that the U-Net takes beside the noisy latent."""
        return int(self.unet.config.in_channels) - self.latents.channels

    @property
    def stride(self) -> int:
        """Latents per side of the U-Net's coarsest grid: of that both sides are multiples."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def null_text(self) -> Tensor:
        """What the U-Net attends to where there is no text, (1, L, D).

        The embedding that was learned for that, as a PerCo's file holds it, or else that of the
        empty text.
        """
        learned = self.perco_state.get("null_text")
        if learned is None:
            return self.embed_text([""])
        return _full(learned.to(next(self.text_encoder.parameters())))

    def null_condition(self) -> dict[str, Tensor]:
        """What `network` is told where there is no text, each (1, …)."""
        return {"text": self.null_text()}

    def text_condition(self, texts: list[str]) -> dict[str, Tensor]:
        """What `network` is told of texts, each (B, …)."""
        return {"text": self.embed_text(texts)}

    def size_condition(self, height: int, width: int) -> dict[str, Tensor]:
        """What `network` is told of the size of a picture in pixels."""
        return {}

    def widen(self, local_channels: int) -> None:
        """Let the U-Net's first convolution see a spatial condition beside the noisy latent.

        This is how PerCo's codes z_hat get in (Careil et al. 2024, Sec. 3.2).

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
        place: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
        new = nn.Conv2d(
            in_channels, old.out_channels, old.kernel_size, padding=old.padding, **place
        )
        with torch.no_grad():
            new.weight[:, :kept] = old.weight[:, :kept]
            new.get_parameter("bias").copy_(old.bias)
        self.unet.conv_in = new
        self.unet.register_to_config(in_channels=in_channels)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` the U-Net, of all that a backbone calls what takes the time."""
        self.unet.compile(*args, **kwargs)

    def hold(self, memory: str) -> None:
        """Choose which networks hold their weights in bfloat16; what goes in and out is float32.

        Args:
            memory: `full`: none; `frozen`: the autoencoder and the text encoder, which are not
                trained; `all`: also the U-Net, which then cannot be trained.

        Raises:
            ValueError: there is no such choice.
        """
        if memory not in MEMORY:
            raise ValueError(f"unknown memory {memory!r}, choose from {', '.join(MEMORY)}")
        self.memory = memory
        if memory != "full":
            self.latents.vae.bfloat16()
            for encoder in self.text_encoders:
                encoder.bfloat16()
        if memory == "all":
            self.unet.bfloat16()

    def check_trainable(self) -> None:
        """That its U-Net holds weights of a precision in which they can be trained.

        Raises:
            ValueError: it does not.
        """
        if self.memory == "all":
            raise ValueError(
                "memory=all holds the U-Net in bfloat16, in which it cannot be trained: choose "
                "memory=frozen or full"
            )

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts -> what the U-Net attends to, (B, L, D)."""
        device = next(self.text_encoder.parameters()).device
        embedding: Tensor = self.text_encoder(self.tokenizer(texts).to(device)).last_hidden_state
        return _full(embedding)

    def network(
        self, x_t: Tensor, time: Tensor, *, text: Tensor, local: Tensor | None = None
    ) -> Tensor:
        """Evaluate the U-Net.

        Args:
            x_t: noisy latents (B, C, H, W) of unit variance.
            time: timestep, () or (B,).
            text: embeddings (B, L, D).
            local: a spatial condition (B, M, h, w), upsampled to the latents' size; None is zeros,
                and all that a U-Net takes that was not widened.
        """
        if local is None and self.local_channels:
            local = x_t.new_zeros(len(x_t), self.local_channels, 1, 1)
        if local is not None:
            x_t = torch.cat([x_t, F.interpolate(local, size=x_t.shape[-2:], mode="nearest")], 1)
        dtype = self.unet.dtype
        out: Tensor = self.unet(x_t.to(dtype), time, encoder_hidden_states=text.to(dtype)).sample
        return _full(out)

    def load_weights(self, source: str) -> None:
        """Load a backbone, or that of a whole PerCo.

        A whole PerCo's null text and hyper-encoders are kept in `perco_state`, for a PerCo on this
        backbone.

        Raises:
            ValueError: it cannot be had or does not fit.
        """
        state = state_dict_of(load_checkpoint(source), prefix="model.")
        own = {k.removeprefix(_NAME): v for k, v in state.items() if k.startswith(_NAME)}
        self.perco_state = {k: v for k, v in state.items() if own and not k.startswith(_NAME)}
        own = own or state
        first = own.get("unet.conv_in.weight")
        if first is not None:
            self.widen(first.shape[1] - self.latents.channels)
        load_strict(self, own, source=source)
        self.trained = True


def _full(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def frozen(module: nn.Module) -> nn.Module:
    """The module without gradients, in eval mode."""
    return module.requires_grad_(False).eval()
