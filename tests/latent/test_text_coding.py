import zlib

import pytest

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.latent.text_coding import TEXT_CODERS, find_text_coder
from diffcodec.latent.tokenizer import caption_words

# Made up in the manner of COCO's annotators and of BLIP-2.
CAPTIONS = (
    "A man riding his bike past a yellow building on a rainy afternoon.",
    "Two zebras drinking from a small pond near some tall grass.",
    "A kitchen counter with a toaster, a kettle and several green mugs.",
    "a brown dog chasing a tennis ball across the lawn",
    "A woman in a white coat crossing a busy street with an umbrella.",
    "a red barn reflected in a pond with trees behind it",
    "Three surfers carry their boards toward the ocean at sunset.",
    "A plate with grilled fish, lemon slices and a baked potato.",
    "two parrots sitting next to each other with leaves in the background",
    "A commuter train pulls into the station while people wait.",
    "A little boy blowing out the candles on his birthday cake.",
    "a lighthouse on a cliff with a white fence in front of it",
    "An orange cat is asleep on top of an open laptop.",
    "A baseball player slides into home plate as the catcher reaches for the ball.",
    "a river flowing through a rocky forest with mountains in the distance",
    "Several boats are tied to a wooden dock in the harbor.",
    "A group of friends sitting around a table eating pizza.",
    "a close up of a motorcycle parked beside a brick wall",
    "A giraffe stretches its neck to reach the leaves of a tall tree.",
    "The bathroom has a white tub, a sink and a large mirror.",
    "a row of colorful houses with wooden doors and flower pots",
    "A man in a hat plays the guitar on a street corner.",
    "A skier goes down a steep hill covered in fresh snow.",
    "a woman with red hair and a black sweater smiling at the camera",
)


@pytest.mark.parametrize("name", TEXT_CODERS)
@pytest.mark.parametrize(
    "text", ["", "A", "naïve café, 東京 🚲", "\n\0", "a " * 3000, *CAPTIONS[:3]]
)
def test_text_comes_back(name, text):
    encode, decode = find_text_coder(name)
    assert decode(encode(text)) == text


def test_the_dictionary_saves_two_fifths_of_zlib():
    assert not any(caption.rstrip(".").lower() in caption_words() for caption in CAPTIONS)
    encode, _ = find_text_coder("dictionary")
    sizes = [(len(encode(c)), len(zlib.compress(c.encode(), 9))) for c in CAPTIONS]
    ours, theirs = map(sum, zip(*sizes, strict=True))
    assert ours < 0.6 * theirs, f"{ours} of {theirs} bytes"


def test_the_dictionary_fits_deflates_window():
    assert len(caption_words().encode()) <= 1 << 15


@pytest.mark.parametrize("name", TEXT_CODERS)
@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b"\xff" * 9],
    ids=["short", "long", "empty", "garbage"],
)
def test_malformed_text_is_refused(name, damage):
    encode, decode = find_text_coder(name)
    with pytest.raises(BitstreamError):
        decode(damage(encode(CAPTIONS[0])))


def test_a_bomb_is_refused_in_bounded_memory():
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(1 << 24)) + deflater.flush()
    with pytest.raises(BitstreamError, match="over 65536"):
        find_text_coder("dictionary")[1](bomb)


def test_text_that_is_not_utf8_is_refused():
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    with pytest.raises(BitstreamError, match="UTF-8"):
        find_text_coder("dictionary")[1](deflater.compress(b"\xff\xfe") + deflater.flush())


def test_too_much_text_is_refused():
    with pytest.raises(ValueError, match="over 65536"):
        find_text_coder("dictionary")[0]("a" * 70000)


def test_an_unknown_coder_lists_the_choices():
    with pytest.raises(ValueError, match="'gzip', choose from zlib, dictionary"):
        find_text_coder("gzip")
