"""Stable Diffusion XL as a backbone (Podell et al., ICLR 2024): two text encoders, and sizes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone, Tokenizer

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection


class SDXLBackbone(Backbone):
    """A backbone whose U-Net is told texts by two encoders, their summary, and a picture's size.

    No text is the empty text, as in the public DiffC.

    Args:
        latents, unet, text_encoder, tokenizer: as of `Backbone`.
        text_encoder_2, tokenizer_2: the second ones.
        alphas_cumprod, prediction: as of `Backbone`.
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
        """What `network` is told of texts.

        Args:
            texts: B of them.

        Returns:
            `text`, the layers before the last of both encoders, (B, L, D1 + D2), and `pooled`, the
            second's projection of the end of the text, (B, D2).
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
        """The time ids of a picture in pixels that was neither resized nor cropped, (1, 6)."""
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
            text, pooled: of `text_condition`.
            time_ids: of `size_condition`.
        """
        dtype = self.unet.dtype
        out: Tensor = self.unet(
            x_t.to(dtype),
            time,
            encoder_hidden_states=text.to(dtype),
            added_cond_kwargs={"text_embeds": pooled.to(dtype), "time_ids": time_ids},
        ).sample
        return out.float()
