"""Captions by BLIP-2 (Li et al. 2023), the paper's captioning model."""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcodec.codec import to_uint8
from diffcodec.weights.configuration import Configured
from diffcodec.weights.sources import find_pipeline

MODEL = "hf://Salesforce/blip2-opt-2.7b"
MAX_TOKENS = 32  # Sec. 4.1


class Blip2Captioner(Configured):
    """A frozen BLIP-2 with a cache of captions on disk.

    It is not a module: its weights are not trained, saved or moved with the codec. They are loaded
    on the first cache miss.

    Args:
        model: `hf://owner/repo[@revision]`, or a folder written by `save_pretrained`.
        max_tokens: maximum number of tokens of a caption.
        cache: cache folder; null selects `captions/` in the user's cache.
        dtype: dtype of the weights, such as `float16` on a GPU.

    Raises:
        ValueError: on a call, if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str = MODEL,
        *,
        max_tokens: int = MAX_TOKENS,
        cache: str | None = None,
        dtype: str = "float32",
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.dtype = dtype
        root = Path(cache).expanduser() if cache else _user_cache() / "captions"
        name = re.sub(r"[^\w.-]+", "_", model.removeprefix("hf://"))
        self.folder = root / f"{name}-{max_tokens}"
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]:
        return list(self.caption_images(list(x)))

    def caption_images(self, images: Sequence[Tensor]) -> list[str]:
        """Caption images (3, H, W) in [0, 1] of any sizes, as one batch."""
        if not images:
            return []
        pictures = [to_uint8(image).cpu().contiguous() for image in images]
        paths = [self._path(picture) for picture in pictures]
        captions = {path: path.read_text(encoding="utf-8") for path in paths if path.exists()}
        missing = {p: pic for p, pic in zip(paths, pictures, strict=True) if p not in captions}
        if missing:
            made = self._generate(list(missing.values()), images[0].device)
            self.folder.mkdir(parents=True, exist_ok=True)
            # Write atomically: another process, also on another host, may caption the same image.
            # A temporary file would be readable by its owner only.
            with tempfile.TemporaryDirectory(prefix=".draft-", dir=self.folder) as drafts:
                for path, caption in zip(missing, made, strict=True):
                    draft = Path(drafts, path.name)
                    draft.write_text(caption, encoding="utf-8")
                    draft.replace(path)
                    captions[path] = caption
        return [captions[path] for path in paths]

    def _path(self, picture: Tensor) -> Path:
        content = f"{tuple(picture.shape)}".encode() + picture.numpy().tobytes()
        return self.folder / f"{hashlib.sha256(content).hexdigest()}.txt"

    def _generate(self, pictures: Sequence[Tensor], device: Any) -> list[str]:
        import torch
        from PIL import Image

        processor, model = self._load()
        model.to(device)
        shown = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
        # The processor inserts image tokens into the prompt; without them BLIP-2 ignores the image.
        inputs = processor(images=shown, text=[""] * len(shown), return_tensors="pt").to(device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        if not model.language_model.config.is_encoder_decoder:
            # Remove the prompt.
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import Blip2ForConditionalGeneration, Blip2Processor

            place, options = find_pipeline(self.model)
            try:
                processor = Blip2Processor.from_pretrained(place, **options)
                model = Blip2ForConditionalGeneration.from_pretrained(
                    place, dtype=getattr(torch, self.dtype), **options
                )
            except (OSError, ValueError) as error:
                raise ValueError(f"could not load BLIP-2 from {self.model!r}: {error}") from error
            # Older processors do not set the number of tokens per image.
            processor.num_query_tokens = model.config.num_query_tokens
            self._loaded = processor, model.eval().requires_grad_(False)
        return self._loaded


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffcodec"
