"""The network that the CLIP score is measured with."""

from typing import Any

import torch
from torch import Tensor, nn


class ClipSimilarity(nn.Module):
    """100 times the cosine of the embeddings of a picture and a text, frozen.

    PerCo's CLIP score (Sec. 4.1 and App. A) is its mean over a set with CLIP ViT-B/32 (Radford et
    al., 2021). It is not rescaled or cut at 0 as the CLIPScore of Hessel et al. (2021) is, whose
    values are 2.5 / 100 times these.

    Args:
        source: `hf://owner/repo[@revision]`, or a folder that `save_pretrained` wrote, with model,
            tokenizer and preprocessor.

    Raises:
        ValueError: the model cannot be had.
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

        A text of more tokens than the model takes (77) is cut.
        """
        inputs = self._processor(
            text=[caption], images=[x.cpu()], return_tensors="pt", padding=True, truncation=True
        ).to(x.device)
        out = self.model(**inputs)
        image, text = out.image_embeds.double(), out.text_embeds.double()
        cosine = torch.nn.functional.cosine_similarity(image, text)
        return torch.cat([100 * cosine, cosine.new_ones(1)])
