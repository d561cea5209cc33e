import pytest

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.perco.payload import join_caption, read_payload, split_caption


@pytest.mark.parametrize("text", [None, b"", b"caption"])
@pytest.mark.parametrize("has_local", [True, False])
@pytest.mark.parametrize("rate", [0, 63])
def test_the_first_section_comes_back(rate, text, has_local):
    section = join_caption(rate, text, has_local=has_local)
    assert len(section) == 1 + len(text or b"")
    assert split_caption(section) == (rate, text, has_local)


def test_a_byte_numbers_64_rates():
    with pytest.raises(ValueError, match="0 to 63, got 64"):
        join_caption(64, None, has_local=True)


def test_both_sections_are_read():
    payload = [join_caption(1, b"red", has_local=True), b"codes"]
    assert read_payload(payload, 2) == (1, b"red", b"codes")
    assert read_payload([join_caption(0, None, has_local=False), b""], 2) == (0, None, None)


@pytest.mark.parametrize(
    ("rate", "has_local", "message"), [(2, True, "outside 0 to 1"), (0, False, "without codes")]
)
def test_what_no_encoder_writes_is_refused(rate, has_local, message):
    payload = [join_caption(rate, None, has_local=has_local), b"codes"]
    with pytest.raises(BitstreamError, match=message):
        read_payload(payload, 2)
