import math

import pytest

from diffcodec.coding.entropy import encode_indices
from diffcodec.perco.rates import TABLE_2, Rate, parse_rate

BPP = (0.1250, 0.0937, 0.0507, 0.0313, 0.0098, 0.0024, 0.0019)
NUM_BYTES = (4096, 3072, 1665, 1024, 320, 80, 64)


@pytest.mark.parametrize(("name", "bpp", "num_bytes"), zip(TABLE_2, BPP, NUM_BYTES, strict=True))
def test_table_2(name, bpp, num_bytes):
    rate = parse_rate(name)
    assert rate.name == name
    height, width = rate.code_shape(512, 512)
    assert (height, width) == (rate.grid, rate.grid)
    coded = encode_indices([rate.num_codes - 1] * (height * width), rate.num_codes)
    assert len(coded) == num_bytes
    # The paper rounds some of its four decimals and truncates others.
    assert bpp in (math.ceil(rate.bpp * 1e4) / 1e4, math.floor(rate.bpp * 1e4) / 1e4)
    assert len(coded) == math.ceil(rate.bpp * 512**2 / 8)


@pytest.mark.parametrize(
    ("size", "shape"), [((1, 1), (1, 1)), ((512, 768), (16, 24)), ((33, 64), (2, 2))]
)
def test_the_grid_grows_with_the_image(size, shape):
    assert parse_rate("16x16/1024").code_shape(*size) == shape


def test_steps_are_the_papers():
    steps = {name: parse_rate(name).default_steps for name in TABLE_2}
    assert [name for name, count in steps.items() if count == 5] == list(TABLE_2[:3])
    assert set(steps.values()) == {5, 20}


def test_by_numbers():
    assert parse_rate([32, 256]) == Rate(32, 256) == parse_rate("32x32/256")


@pytest.mark.parametrize("rate", ["0.0313", "32x16/256", "32x32", [32], "32x32/256 "])
def test_what_is_no_rate_is_named(rate):
    with pytest.raises(ValueError, match="8x8/256"):
        parse_rate(rate)


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match=r"unknown grid 12, choose from \(64, 32, 16, 8\)"):
        parse_rate("12x12/256")
    with pytest.raises(ValueError, match="at least two codes, got 1"):
        Rate(8, 1)
