"""A text-conditioned latent diffusion model: autoencoder, U-Net, text encoder, schedule."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.low_rank import split
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

Tokenizer = Callable[[list[str]], Tensor]
"""Texts -> token indices (B, L)."""

MEMORY = ("full", "frozen", "all")
_NAME = "backbone."  # state-dict prefix of a backbone inside a larger model


class Backbone(nn.Module):
    """A text-conditioned latent diffusion model.

    Args:
        latents: autoencoder.
        unet, text_encoder: U-Net and text encoder, of the classes that Stable Diffusion uses.
        tokenizer: function from texts to token indices (B, L).
        alphas_cumprod: abar of the training timesteps, (N,) falling.
        prediction: prediction type of the U-Net: `x0`, `eps` or `v`.

    Attributes:
        trained: whether trained weights were loaded.
        memory: which networks have bfloat16 weights, see `hold`.
        perco_state: state dict of PerCo's other parts if the weights are those of a PerCo, see
            `load_weights`.
        hyper_encoder_weights: settings and state dict of the hyper-encoder in a checkpoint of PerCo
            (SD); None for other sources.
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
        """Whether some networks have bfloat16 weights and convert their inputs and outputs."""
        return self.memory != "full"

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """All text encoders."""
        return (self.text_encoder,)

    @property
    def local_channels(self) -> int:
        """Number of channels of the spatial condition that the U-Net takes with the latent."""
        return int(self.unet.config.in_channels) - self.latents.channels

    @property
    def stride(self) -> int:
        """Downsampling factor of the U-Net; both sides of a latent must be multiples of it."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def null_text(self) -> Tensor:
        """The text embedding for images without text, (1, L, D).

        This is the learned embedding of a PerCo if one was loaded, or else the embedding of the
        empty text.
        """
        learned = self.perco_state.get("null_text")
        if learned is None:
            return self.embed_text([""])
        return _full(learned.to(next(self.text_encoder.parameters())))

    def null_condition(self) -> dict[str, Tensor]:
        """Keyword arguments of `network` for images without text, each (1, …)."""
        return {"text": self.null_text()}

    def text_condition(self, texts: list[str]) -> dict[str, Tensor]:
        """Keyword arguments of `network` for texts, each (B, …)."""
        return {"text": self.embed_text(texts)}

    def size_condition(self, height: int, width: int) -> dict[str, Tensor]:
        """Keyword arguments of `network` for the size of an image in pixels."""
        return {}

    def widen(self, local_channels: int) -> None:
        """Add input channels for a spatial condition to the U-Net's first convolution.

        PerCo conditions the U-Net on its codes z_hat in this way (Careil et al. 2024, Sec. 3.2).
        Weights of existing channels are kept, weights of new channels are random. If the
        convolution already has this width, it is unchanged.

        Args:
            local_channels: number of channels of the condition; 0 removes them, which is equivalent
                to a condition of zeros.

        Raises:
            ValueError: the U-Net was widened to another number of channels before.
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
        # A new module: `from_pretrained` with other in_channels leaves the weights uninitialized.
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
        """`torch.compile` the U-Net, which takes most of the time."""
        self.unet.compile(*args, **kwargs)

    def hold(self, memory: str) -> None:
        """Convert the weights of some networks to bfloat16; inputs and outputs stay float32.

        Args:
            memory: `full`: no network; `frozen`: the autoencoder and the text encoder, which are
                not trained; `all`: also the U-Net, which then cannot be trained.

        Raises:
            ValueError: the value is unknown.
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
        """Check that the U-Net's weights have a precision that can be trained.

        Raises:
            ValueError: they do not.
        """
        if self.memory == "all":
            raise ValueError(
                "memory=all keeps the U-Net in bfloat16, which cannot be trained: pass "
                "memory=frozen or memory=full"
            )

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts -> text embeddings for the U-Net's cross-attention, (B, L, D)."""
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
            local: spatial condition (B, M, h, w), upsampled to the latents' size; None stands for
                zeros, and is required if the U-Net was not widened.
        """
        if local is None and self.local_channels:
            local = x_t.new_zeros(len(x_t), self.local_channels, 1, 1)
        if local is not None:
            x_t = torch.cat([x_t, F.interpolate(local, size=x_t.shape[-2:], mode="nearest")], 1)
        dtype = self.unet.dtype
        out: Tensor = self.unet(x_t.to(dtype), time, encoder_hidden_states=text.to(dtype)).sample
        return _full(out)

    def load_weights(self, source: str) -> None:
        """Load the weights of a backbone, or the backbone's weights of a PerCo.

        The other weights of a PerCo, such as its null text, hyper-encoders and low-rank updates of
        the U-Net, are stored in `perco_state` for a PerCo on this backbone.

        Raises:
            ValueError: the weights cannot be loaded or do not fit.
        """
        state = state_dict_of(load_checkpoint(source), prefix="model.")
        own = {k.removeprefix(_NAME): v for k, v in state.items() if k.startswith(_NAME)}
        self.perco_state = {k: v for k, v in state.items() if own and not k.startswith(_NAME)}
        own, updates = split(own or state)
        self.perco_state |= {f"{_NAME}{name}": update for name, update in updates.items()}
        first = own.get("unet.conv_in.weight")
        if first is not None:
            self.widen(first.shape[1] - self.latents.channels)
        load_strict(self, own, source=source)
        self.trained = True


def _full(x: Tensor) -> Tensor:
    """Convert to at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def frozen(module: nn.Module) -> nn.Module:
    """Disable gradients of a module and set it to eval mode."""
    return module.requires_grad_(False).eval()
