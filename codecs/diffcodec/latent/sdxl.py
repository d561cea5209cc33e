"""Stable Diffusion XL as a backbone (Podell et al., ICLR 2024), with its additional conditions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone, Tokenizer

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection


class SDXLBackbone(Backbone):
    """A backbone conditioned on two text encoders, a pooled embedding and the image size.

    Images without text use the empty text, as in the public DiffC.

    Args:
        latents, unet, text_encoder, tokenizer: see `Backbone`.
        text_encoder_2, tokenizer_2: second text encoder and its tokenizer.
        alphas_cumprod, prediction: see `Backbone`.
    """

    def __init__(
        self,
        latents: LatentSpace,
        unet: "UNet2DConditionModel",
        text_encoder: "CLIPTextModel",
        tokenizer: Tokenizer,
        text_encoder_2: "CLIPTextModelWithProjection",
        tokenizer_2: Tokenizer,
        *,
        alphas_cumprod: Tensor,
        prediction: str,
    ) -> None:
        process: Any = {"alphas_cumprod": alphas_cumprod, "prediction": prediction}
        super().__init__(latents, unet, text_encoder, tokenizer, **process)
        self.text_encoder_2: Any = text_encoder_2
        self.tokenizer_2 = tokenizer_2

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        return self.text_encoder, self.text_encoder_2

    def embed_text(self, texts: list[str]) -> Tensor:
        return self.text_condition(texts)["text"]

    def null_condition(self) -> dict[str, Tensor]:
        return self.text_condition([""])

    def text_condition(self, texts: list[str]) -> dict[str, Tensor]:
        """Keyword arguments of `network` for texts.

        Args:
            texts: B texts.

        Returns:
            `text`, the penultimate layers of both encoders, (B, L, D1 + D2), and `pooled`, the
            second encoder's projection of the end token, (B, D2).
        """
        device = next(self.text_encoder.parameters()).device
        both = [
            encoder(tokenizer(texts).to(device), output_hidden_states=True)
            for encoder, tokenizer in (
                (self.text_encoder, self.tokenizer),
                (self.text_encoder_2, self.tokenizer_2),
            )
        ]
        text = torch.cat([out.hidden_states[-2] for out in both], dim=-1)
        return {"text": text.float(), "pooled": both[1].text_embeds.float()}

    def size_condition(self, height: int, width: int) -> dict[str, Tensor]:
        """The time ids of an image in pixels without resizing or cropping, (1, 6)."""
        device = next(self.unet.parameters()).device
        ids = [height, width, 0, 0, height, width]
        return {"time_ids": torch.tensor([ids], dtype=torch.float32, device=device)}

    def network(  # type: ignore[override]
        self, x_t: Tensor, time: Tensor, *, text: Tensor, pooled: Tensor, time_ids: Tensor
    ) -> Tensor:
        """Evaluate the U-Net.

        Args:
            x_t: noisy latents (B, C, H, W) of unit variance.
            time: timestep, () or (B,).
            text, pooled: results of `text_condition`.
            time_ids: result of `size_condition`.
        """
        dtype = self.unet.dtype
        out: Tensor = self.unet(
            x_t.to(dtype),
            time,
            encoder_hidden_states=text.to(dtype),
            added_cond_kwargs={"text_embeds": pooled.to(dtype), "time_ids": time_ids},
        ).sample
        return out.float()
