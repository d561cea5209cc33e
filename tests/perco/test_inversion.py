import pytest
import torch
from torch.nn import functional as F

from diffcodec.coding.entropy import decode_text, encode_text
from diffcodec.perco.captioners import CaptionerOfImages
from diffcodec.perco.inversion import InversionCaptioner, _Clip
from tests.metrics.tiny import save_clip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def similarity(clip: _Clip, text: str, image: torch.Tensor) -> float:
    return float(F.cosine_similarity(clip.embed_text(text), clip.embed_image(image)))


def test_embeddings_of_tokens_are_those_of_their_text(source):
    clip = _Clip(source, 3)
    ids = clip._processor.tokenizer(["a dog on"]).input_ids[0][1:-1]
    found = clip.embed_tokens(clip.table[ids])
    torch.testing.assert_close(found, clip.embed_text("a dog on"))
    assert clip.decode(clip.nearest(3 * clip.table[ids])) == "a dog on"


def test_prompts_are_of_words_alone(source):
    clip = _Clip(source, 3)
    words = {clip.decode(token[None]) for token in clip.choices}
    assert words == {"a", "dog", "cat", "on", "the", "grass"}


@torch.inference_mode()
def test_it_finds_a_text_that_is_nearer_than_others(source):
    torch.manual_seed(0)
    images = [torch.rand(3, 40, 50), torch.rand(3, 30, 30).square()]
    captioner = InversionCaptioner(source, num_tokens=2, steps=25)
    assert isinstance(captioner, CaptionerOfImages)
    captions = captioner.caption_images(images)
    clip = _Clip(source, 2)
    words = ["a", "dog", "cat", "on", "the", "grass"]
    for image, caption in zip(images, captions, strict=True):
        every = sorted(similarity(clip, f"{a} {b}", image) for a in words for b in words)
        assert similarity(clip, caption, image) >= every[len(every) * 3 // 4]
        assert decode_text(encode_text(caption)) == caption
    assert captioner(torch.stack([images[0]])) == captions[:1]


def test_longer_searches_are_no_worse(source):
    image, clip = torch.rand(3, 32, 32), _Clip(source, 4)
    scores = [
        similarity(clip, InversionCaptioner(source, num_tokens=4, steps=n)(image[None])[0], image)
        for n in (1, 10)
    ]
    assert scores[0] <= scores[1]


def test_what_cannot_be_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
        InversionCaptioner(source, num_tokens=0)
    with pytest.raises(ValueError, match=r"num_tokens must be at most 10 .*, got 11"):
        InversionCaptioner(source, num_tokens=11)(torch.rand(1, 3, 30, 30))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="could not load CLIP from"):
        InversionCaptioner(str(tmp_path / "empty"))(torch.rand(1, 3, 30, 30))
