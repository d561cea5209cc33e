"""Captions by BLIP-2 (Li et al. 2023), the paper's captioning model."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcodec.codec import to_uint8
from diffcodec.configuration import Configured
from diffcodec.weights import find_pipeline

MODEL = "hf://Salesforce/blip2-opt-2.7b"
MAX_TOKENS = 32  # Sec. 4.1


class Blip2Captioner(Configured):
    """A frozen BLIP-2 that runs once per image: its captions are kept on disk.

    It is no module: its weights are neither trained, saved nor moved with the codec, and are loaded
    when the first caption is wanted that is not on disk.

    Args:
        model: `hf://owner/repo[@revision]`, or a folder that `save_pretrained` wrote.
        max_tokens: of a caption.
        cache: folder of the captions; null is `captions/` in the user's cache.
        dtype: of the weights, as in `float16` on a GPU.

    Raises:
        ValueError: when called, the model cannot be had.
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
        return [self._caption(image, x.device) for image in to_uint8(x).cpu()]

    def _caption(self, image: Tensor, device: Any) -> str:
        content = f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes()
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}.txt"
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            caption = self._generate(image, device)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Another process may caption the same image: each writes its own file, then renames it.
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(caption, encoding="utf-8")
        draft.replace(path)
        return caption

    def _generate(self, image: Tensor, device: Any) -> str:
        import torch
        from PIL import Image

        processor, model = self._load()
        model.to(device)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        # The processor writes the image's tokens into the prompt: without, BLIP-2 sees no image.
        inputs = processor(images=picture, text="", return_tensors="pt").to(device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        if not model.language_model.config.is_encoder_decoder:
            # What is generated comes after the prompt.
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        text: str = processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.split())

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
            # Older processors do not say how many tokens an image has.
            processor.num_query_tokens = model.config.num_query_tokens
            self._loaded = processor, model.eval().requires_grad_(False)
        return self._loaded


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffcodec"
