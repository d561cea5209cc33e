"""Small parts of a PerCo for tests: its arguments, and a captioner with random weights."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from diffcodec.perco import HyperEncoderSettings, TrainingSettings

SIZES = {"N": 8, "M": 6, "codebook_dim": 4}


def arguments(**options: Any) -> dict[str, Any]:
    """Arguments of PerCo; those of its groups may be given by their own names."""
    groups: dict[str, Any] = {"hyper_encoder": HyperEncoderSettings, "training": TrainingSettings}
    for name, group in groups.items():
        own = {f.name: options.pop(f.name) for f in fields(group) if f.name in options}
        options[name] = group(**own)
    return options


def save_blip2(folder: Path) -> str:
    """A randomly initialised BLIP-2, as `save_pretrained` writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *(f"word{i}" for i in range(40))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            vocab_size=8,
            hidden_size=16,
            encoder_hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ).to_dict(),
        text_config=OPTConfig(
            vocab_size=len(words),
            hidden_size=16,
            word_embed_proj_dim=16,
            ffn_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ).to_dict(),
        num_query_tokens=3,
        image_token_index=4,
    )
    blip2 = Blip2ForConditionalGeneration(config)
    with torch.no_grad():  # so that the picture shows in what is said
        for parameter in blip2.parameters():
            parameter.mul_(20)
    blip2.save_pretrained(folder)
    size = {"height": 28, "width": 28}
    Blip2Processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=3).save_pretrained(
        folder
    )
    assert json.loads((folder / "config.json").read_text())["image_token_index"] == 4
    return str(folder)
