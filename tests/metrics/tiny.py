"""Tiny networks of metrics with random weights, saved in the layouts of the public ones."""

from pathlib import Path

import pytest
import torch


def save_clip(folder: Path) -> str:
    """A CLIP with its tokenizer and preprocessor, as `save_pretrained` writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<end>", "<start>", "<unk>", "a", "dog", "cat", "on", "the", "grass"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<end>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unk>",
        model_max_length=12,
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = {**small, "num_attention_heads": 2, "vocab_size": 16, "max_position_embeddings": 12}
    vision = {**small, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config={**text, "eos_token_id": 0}, vision_config=vision, projection_dim=8)
    )
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return str(folder)


def save_segformer(folder: Path, num_classes: int = 4) -> str:
    """A SegFormer with its preprocessor, as `save_pretrained` writes it."""
    from transformers import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
    )

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=1,
        depths=[1],
        sr_ratios=[1],
        hidden_sizes=[8],
        patch_sizes=[7],
        strides=[4],
        num_attention_heads=[1],
        mlp_ratios=[1],
        decoder_hidden_size=8,
        num_labels=num_classes,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def save_inception(path: Path) -> str:
    """FID's Inception with random weights, which are as good as any for its geometry."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *args, **kwargs: {},
        )
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        torch.save(FeatureExtractorInceptionV3("random", ["2048"]).state_dict(), path)
    return str(path)
