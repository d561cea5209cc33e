import pytest

from diffcodec.bitstream import BitstreamError
from diffcodec.entropy import encode_indices
from diffcodec.perco.payload import join_caption, read_payload, split_caption
from diffcodec.perco.rates import Rate

RATES = [Rate(8, 256), Rate(16, 8196)]


@pytest.mark.parametrize("text", [None, b"", b"caption"])
@pytest.mark.parametrize("has_local", [True, False])
@pytest.mark.parametrize("rate", [0, 63])
def test_the_first_section_comes_back(rate, text, has_local):
    section = join_caption(rate, text, has_local=has_local)
    assert len(section) == 1 + len(text or b"")
    assert split_caption(section) == (rate, text, has_local)


def test_a_byte_numbers_64_rates():
    with pytest.raises(ValueError, match="64 rates, not number 64"):
        join_caption(64, None, has_local=True)


def test_both_sections_are_read():
    indices = [5, 0, 8195, 77, 1, 2]
    payload = [join_caption(1, b"red", has_local=True), encode_indices(indices, 8196)]
    assert read_payload(payload, RATES, 40, 96, bytes.decode) == (1, "red", indices)
    payload = [join_caption(0, None, has_local=False), b""]
    assert read_payload(payload, RATES, 40, 96, bytes.decode) == (0, None, None)


def test_indices_outside_the_codebook_are_refused():
    payload = [join_caption(1, None, has_local=True), b"\xff" * 10]
    with pytest.raises(BitstreamError, match=r"outside \[0, 8196\)"):
        read_payload(payload, RATES, 40, 96, bytes.decode)
