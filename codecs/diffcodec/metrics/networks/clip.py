"""The network of the CLIP score."""

from typing import Any

import torch
from torch import Tensor, nn


class ClipSimilarity(nn.Module):
    """100 times the cosine similarity of image and text embeddings, by a frozen CLIP.

    PerCo's CLIP score (Sec. 4.1 and App. A) is the mean over a set, with CLIP ViT-B/32 (Radford et
    al., 2021). Unlike the CLIPScore of Hessel et al. (2021), it is not clamped at 0. CLIPScore is
    2.5 / 100 times these values.

    Args:
        source: `hf://owner/repo[@revision]`, or a folder written by `save_pretrained`, with model,
            tokenizer and preprocessor.

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(self, source: str) -> None:
        from transformers import CLIPModel, CLIPProcessor

        from diffcodec.weights.sources import find_pipeline

        super().__init__()
        place, options = find_pipeline(source)
        try:
            self._processor: Any = CLIPProcessor.from_pretrained(place, **options)
            self.model: Any = CLIPModel.from_pretrained(place, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"could not load CLIP from {source!r}: {error}") from error
        self.requires_grad_(False).eval()

    def forward(self, caption: str, x: Tensor) -> Tensor:
        """A text and a uint8 image (3, H, W) -> (score, 1), float64, to be summed over images.

        Longer texts than the model supports (77 tokens) are truncated.
        """
        inputs = self._processor(
            text=[caption], images=[x.cpu()], return_tensors="pt", padding=True, truncation=True
        ).to(x.device)
        out = self.model(**inputs)
        image, text = out.image_embeds.double(), out.text_embeds.double()
        cosine = torch.nn.functional.cosine_similarity(image, text)
        return torch.cat([100 * cosine, cosine.new_ones(1)])
