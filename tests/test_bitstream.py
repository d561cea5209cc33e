import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcodec.bitstream import MAX_PIXELS, MAX_SIDE, BitstreamError, pack, unpack

FINGERPRINT = bytes(range(32))
OTHER = bytes(range(1, 33))

sections_of = st.lists(st.binary(max_size=300), min_size=1, max_size=5)
sides = st.integers(1, 8192)


def read(stream: bytes, num_sections: int, fingerprint: bytes = FINGERPRINT):
    return unpack(stream, num_sections=num_sections, fingerprint=fingerprint)


@given(sections_of, sides, sides)
def test_round_trip(sections, height, width):
    stream = pack(sections, height=height, width=width, fingerprint=FINGERPRINT)
    contents = read(stream, len(sections))
    assert contents.sections == tuple(sections)
    assert (contents.height, contents.width) == (height, width)
    assert contents.num_payload_bytes == sum(map(len, sections))


def test_header_is_a_handful_of_bytes():
    assert len(pack([b""], height=512, width=512, fingerprint=FINGERPRINT)) == 11
    assert len(pack([b""] * 2, height=64, width=64, fingerprint=FINGERPRINT)) == 10


@given(sections_of, sides, sides, st.data())
def test_every_truncation_is_refused(sections, height, width, data):
    stream = pack(sections, height=height, width=width, fingerprint=FINGERPRINT)
    cut = data.draw(st.integers(0, len(stream) - 1))
    with pytest.raises(BitstreamError):
        read(stream[:cut], len(sections))


@settings(max_examples=300)
@given(sections_of, sides, sides, st.data())
def test_every_changed_byte_is_refused(sections, height, width, data):
    stream = bytearray(pack(sections, height=height, width=width, fingerprint=FINGERPRINT))
    position = data.draw(st.integers(0, len(stream) - 1))
    stream[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BitstreamError):
        read(bytes(stream), len(sections))


def test_every_changed_bit_of_a_short_stream_is_refused():
    stream = pack([b"abc", b"de"], height=17, width=31, fingerprint=FINGERPRINT)
    for position in range(len(stream)):
        for bit in range(8):
            broken = bytearray(stream)
            broken[position] ^= 1 << bit
            with pytest.raises(BitstreamError):
                read(bytes(broken), 2)


@given(st.binary(max_size=200), st.integers(1, 5))
def test_random_bytes_are_refused(data, num_sections):
    with pytest.raises(BitstreamError):
        read(data, num_sections)


@given(sections_of, st.binary(min_size=1, max_size=8))
def test_trailing_bytes_are_refused(sections, tail):
    stream = pack(sections, height=4, width=4, fingerprint=FINGERPRINT)
    with pytest.raises(BitstreamError):
        read(stream + tail, len(sections))


def test_another_codec_is_refused_by_name():
    stream = pack([b"abc"], height=4, width=4, fingerprint=FINGERPRINT)
    with pytest.raises(BitstreamError, match=r"another codec.*0001.*0102"):
        read(stream, 1, OTHER)


def test_weights_that_share_the_two_sent_bytes_are_refused_by_the_checksum():
    stream = pack([b"abc"], height=4, width=4, fingerprint=FINGERPRINT)
    with pytest.raises(BitstreamError, match="checksum"):
        read(stream, 1, FINGERPRINT[:-1] + b"!")


def test_another_format_version_is_refused():
    stream = bytearray(pack([b"abc"], height=4, width=4, fingerprint=FINGERPRINT))
    stream[0] += 1
    with pytest.raises(BitstreamError, match="format version 2"):
        read(bytes(stream), 1)


@pytest.mark.parametrize(
    ("height", "width"), [(2**31, 2**31), (MAX_SIDE + 1, 1), (MAX_SIDE, MAX_SIDE), (0, 5)]
)
def test_impossible_sizes_are_refused_at_both_ends(height, width, monkeypatch):
    with pytest.raises(ValueError, match=rf"{height}x{width}"):
        pack([b""], height=height, width=width, fingerprint=FINGERPRINT)
    # What a hostile writer, who knows the fingerprint, would send.
    monkeypatch.setattr("diffcodec.bitstream.size_problem", lambda *_: None)
    stream = pack([b"x"], height=height, width=width, fingerprint=FINGERPRINT)
    monkeypatch.undo()
    tracemalloc.start()
    with pytest.raises(BitstreamError, match=rf"{height}x{width}"):
        read(stream, 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_largest_size_is_accepted():
    side = int(MAX_PIXELS**0.5)
    stream = pack([b""], height=side, width=side, fingerprint=FINGERPRINT)
    assert read(stream, 1).height == side


def test_sections_that_claim_too_much_are_refused():
    stream = pack([b"abcdef", b"gh"], height=4, width=4, fingerprint=FINGERPRINT)
    with pytest.raises(BitstreamError, match="do not fit"):
        read(stream, 4)  # the payload's first bytes are then read as lengths


def test_no_section_and_short_fingerprints_are_refused():
    with pytest.raises(ValueError, match="at least one section"):
        pack([], height=4, width=4, fingerprint=FINGERPRINT)
    with pytest.raises(ValueError, match="32 bytes, got 3"):
        pack([b""], height=4, width=4, fingerprint=b"abc")
