import torch

from diffcodec.latent.text_coding import find_text_coder
from diffcodec.latent.tokenizer import caption_words
from diffcodec.perco.palette import PaletteCaptioner, describe


def plain(colour, height=60, width=80) -> torch.Tensor:
    return torch.tensor(colour).reshape(3, 1, 1).expand(3, height, width)


def test_colours_are_named_where_they_are():
    sky, field = plain((0.59, 0.73, 0.86)), plain((0.29, 0.43, 0.18))
    places = "light blue at the top, green in the middle and at the bottom"
    caption = describe(torch.cat([sky, field, field], dim=1))
    assert caption == f"a clear photo, {places}, smooth texture"


def test_one_colour_is_named_once():
    assert describe(plain((0.05, 0.05, 0.05))) == "a dark photo, black, smooth texture"


def test_light_and_texture():
    noise = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert describe(noise).endswith("fine texture")
    assert describe(plain((0.9, 0.9, 0.9))).startswith("a bright photo, white")
    halves = torch.cat([plain((0.0, 0.0, 0.0)), plain((1.0, 1.0, 1.0))], dim=2)
    assert "high contrast" in describe(halves)


def test_any_size_and_every_image_of_a_batch():
    for size in ((1, 1), (1, 300), (47, 49)):
        assert describe(torch.rand(3, *size))
    images = torch.stack([plain((0.05, 0.05, 0.05)), plain((0.9, 0.9, 0.9))])
    captions = PaletteCaptioner()(images)
    assert captions == [describe(image) for image in images]
    assert captions[0] != captions[1]


def test_its_words_are_cheap():
    encode, _ = find_text_coder("dictionary")
    caption = describe(torch.cat([plain((0.59, 0.73, 0.86)), plain((0.29, 0.43, 0.18))], dim=1))
    assert len(encode(caption)) < 0.4 * len(caption)
    words = set(caption_words().split())
    assert {word.strip(",") for word in caption.split()} <= {w.strip(",.") for w in words}
