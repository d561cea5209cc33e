"""Captions by prompt inversion: text whose CLIP embedding matches the image (Text-Sketch PIC)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffcodec.codec import to_uint8
from diffcodec.weights.configuration import Configured
from diffcodec.weights.sources import find_pipeline


class InversionCaptioner(Configured):
    """Hard prompts by PEZ (Wen et al. 2023), the captions of Text-Sketch PIC (Lei et al. 2023).

    AdamW optimizes the embeddings of a few tokens to maximize the cosine similarity of CLIP's text
    and image embeddings. Each step projects them to the nearest tokens and applies the gradient at
    the projection. The result is the best text of all steps. Candidates are decoded to text and
    tokenized again before they are scored, because a token may begin in the middle of a word.

    The captions are not grammatical, and an image takes up to 2 * `steps` passes through CLIP's
    text encoder. With `codec.condition=text`, PerCo decodes from the caption alone.

    Args:
        model: CLIP model, `hf://owner/repo[@revision]` or a folder written by `save_pretrained`;
            its text encoder should be the backbone's.
        num_tokens: number of tokens of a caption.
        steps: number of optimizer steps.
        lr, weight_decay: learning rate and weight decay of AdamW; both are 0.1 in the paper.
        seed: seed of the initial tokens, the same for all images.

    Raises:
        ValueError: a number is out of range; or on a call, the model cannot be loaded or accepts
            fewer tokens.
    """

    def __init__(
        self,
        model: str,
        *,
        num_tokens: int = 16,
        steps: int = 1000,
        lr: float = 0.1,
        weight_decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        for name, value in (("num_tokens", num_tokens), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model = model
        self.num_tokens, self.steps = num_tokens, steps
        self.lr, self.weight_decay = lr, weight_decay
        self.seed = seed
        self._clip: _Clip | None = None

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]:
        return list(self.caption_images(list(x)))

    def caption_images(self, images: Sequence[Tensor]) -> list[str]:
        """Caption images (3, H, W) in [0, 1] of any sizes, one after another."""
        # Callers may have disabled gradients.
        with torch.inference_mode(False), torch.enable_grad():
            if self._clip is None:
                self._clip = _Clip(self.model, self.num_tokens)
            return [self._invert(self._clip, image) for image in images]

    def _invert(self, clip: "_Clip", image: Tensor) -> str:
        wanted = clip.embed_image(image)
        generator = torch.Generator().manual_seed(self.seed)
        first = clip.choices[
            torch.randint(len(clip.choices), (self.num_tokens,), generator=generator)
        ]
        soft = clip.table[first].clone().requires_grad_()
        optimizer = torch.optim.AdamW([soft], lr=self.lr, weight_decay=self.weight_decay)
        best, text, tried = -2.0, "", set()
        for _ in range(self.steps):
            tokens = clip.nearest(soft.detach())
            hard = clip.table[tokens].clone().requires_grad_()
            loss = 1 - F.cosine_similarity(clip.embed_tokens(hard), wanted).mean()
            (soft.grad,) = torch.autograd.grad(loss, hard)
            optimizer.step()
            candidate = clip.decode(tokens)
            if candidate not in tried:
                tried.add(candidate)
                score = float(F.cosine_similarity(clip.embed_text(candidate), wanted).mean())
                if score > best:
                    best, text = score, candidate
        return text


class _Clip:
    """A frozen CLIP whose text encoder also accepts token embeddings.

    Attributes:
        table: embeddings of all tokens, (V, D).
        choices: ids of the tokens that prompts may contain.
    """

    def __init__(self, source: str, num_tokens: int) -> None:
        from transformers import CLIPModel, CLIPProcessor

        place, options = find_pipeline(source)
        try:
            self._processor: Any = CLIPProcessor.from_pretrained(place, **options)
            model: Any = CLIPModel.from_pretrained(place, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"could not load CLIP from {source!r}: {error}") from error
        self._model = model.requires_grad_(False).eval()
        tokenizer: Any = self._processor.tokenizer
        longest = int(model.config.text_config.max_position_embeddings) - 2
        if num_tokens > longest:
            raise ValueError(f"num_tokens must be at most {longest} for {source}, got {num_tokens}")
        ids = tokenizer([""]).input_ids[0]
        self._begin, self._end = int(ids[0]), int(ids[-1])
        # Keep the tokens that decode to printable text on their own.
        special = set(tokenizer.all_special_ids)
        words = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        known = [
            i for i, w in enumerate(words) if i not in special and w.strip() and w.isprintable()
        ]
        self.choices = torch.tensor(known)
        self._layer: Any = next(
            m for n, m in model.text_model.named_modules() if n.endswith("token_embedding")
        )
        self.table: Tensor = self._layer.weight.detach()
        self._directions = F.normalize(self.table[self.choices], dim=1)

    @torch.no_grad()
    def embed_image(self, image: Tensor) -> Tensor:
        """Image (3, H, W) in [0, 1] -> embedding (1, D)."""
        inputs = self._processor(images=[to_uint8(image).cpu()], return_tensors="pt")
        return _embedding(self._model.get_image_features(**inputs))

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """Text -> embedding (1, D)."""
        inputs = self._processor(text=[text], return_tensors="pt", truncation=True)
        return _embedding(self._model.get_text_features(**inputs))

    def embed_tokens(self, embeddings: Tensor) -> Tensor:
        """Embeddings of n tokens (n, D) -> embedding of their text (1, D)."""
        ids = torch.full((1, len(embeddings) + 2), int(self.choices[0]))
        ids[0, 0], ids[0, -1] = self._begin, self._end

        def put(_: Any, __: Any, found: Tensor) -> Tensor:
            return torch.cat([found[:, :1], embeddings[None], found[:, -1:]], 1)

        hook = self._layer.register_forward_hook(put)
        try:
            return _embedding(self._model.get_text_features(input_ids=ids))
        finally:
            hook.remove()

    def nearest(self, embeddings: Tensor) -> Tensor:
        """Ids of the tokens nearest to embeddings (n, D) by cosine similarity, (n,)."""
        return self.choices[(F.normalize(embeddings, dim=1) @ self._directions.T).argmax(1)]

    def decode(self, tokens: Tensor) -> str:
        """Token ids (n,) -> text."""
        text: str = self._processor.tokenizer.decode(tokens.tolist())
        return " ".join(text.split())


def _embedding(found: Any) -> Tensor:
    """The embedding in CLIP's output: the output itself, or an attribute since transformers 5."""
    embedding: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return embedding
