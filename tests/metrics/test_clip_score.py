import pytest
import torch

from diffcodec.metrics import find_metric
from diffcodec.metrics.clip_score import mean
from diffcodec.metrics.networks.clip import ClipSimilarity


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A randomly initialised CLIP, as `save_pretrained` writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
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
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return str(folder)


def test_the_score_is_100_times_the_cosine_of_the_embeddings(source, pair):
    clip = ClipSimilarity(source)
    x, _ = pair
    score, count = clip("a dog on the grass", x)
    inputs = clip._processor(text=["a dog on the grass"], images=[x], return_tensors="pt")
    with torch.no_grad():
        logits = clip.model(**inputs).logits_per_image
        expected = 100 * logits / clip.model.logit_scale.exp()
    assert count == 1
    assert score.item() == pytest.approx(expected.item(), rel=1e-5)
    assert score.dtype == torch.float64


def test_another_text_and_another_picture_have_other_scores(source, pair):
    clip = ClipSimilarity(source)
    x, y = pair
    scores = {clip(text, x)[0].item() for text in ("a dog", "the cat on the grass")}
    scores.add(clip("a dog", y.flip(1))[0].item())
    assert len(scores) == 3


def test_a_long_text_is_cut(source, pair):
    clip = ClipSimilarity(source)
    assert torch.equal(clip("dog " * 40, pair[0]), clip("dog " * 60, pair[0]))


def test_the_mean_is_over_the_images():
    assert mean(torch.tensor([30.0 + 20.0, 2.0])) == 25


def test_a_model_that_cannot_be_had_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="could not load CLIP from"):
        ClipSimilarity(str(tmp_path))
    metric = find_metric("clip_score")
    assert not metric.default
    with pytest.raises(ValueError, match="no folder"):
        metric.build(str(tmp_path / "missing"))
