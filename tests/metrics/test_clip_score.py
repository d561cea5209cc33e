import pytest
import torch

from diffcodec.metrics import find_metric
from diffcodec.metrics.clip_score import mean
from diffcodec.metrics.networks.clip import ClipSimilarity
from tests.metrics.tiny import save_clip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


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
    with pytest.raises(ValueError, match="no such folder"):
        metric.build(str(tmp_path / "missing"))
