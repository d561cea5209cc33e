import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcodec.coding.bitstream import (
    BLOCK_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    BitstreamError,
    fitting_payload,
    pack,
    pack_progressive,
    unpack,
    unpack_progressive,
)

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
    monkeypatch.setattr("diffcodec.coding.bitstream.size_problem", lambda *_: None)
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


payloads = st.binary(max_size=400)


def progressive(payload: bytes, height: int = 512, width: int = 768) -> bytes:
    return pack_progressive(payload, height=height, width=width, fingerprint=FINGERPRINT)


@given(payloads, sides, sides)
def test_a_progressive_round_trip(payload, height, width):
    stream = progressive(payload, height, width)
    contents = unpack_progressive(stream, fingerprint=FINGERPRINT)
    assert contents.sections == (payload,)
    assert (contents.height, contents.width) == (height, width)
    assert contents.num_payload_bytes == len(payload)


def test_what_a_progressive_stream_costs():
    assert len(progressive(b"")) == 9
    assert len(progressive(bytes(161))) == 172
    assert len(progressive(bytes(6300))) == 9 + 6400


@given(payloads, payloads)
def test_a_progressive_stream_begins_like_that_of_the_beginning(payload, more):
    assert progressive(payload + more).startswith(progressive(payload))


@given(payloads, st.data())
def test_a_progressive_stream_may_end_anywhere(payload, data):
    stream = progressive(payload)
    cut = data.draw(st.integers(0, len(stream)))
    if cut < 9:
        with pytest.raises(BitstreamError):
            unpack_progressive(stream[:cut], fingerprint=FINGERPRINT)
    else:
        (arrived,) = unpack_progressive(stream[:cut], fingerprint=FINGERPRINT).sections
        assert payload.startswith(arrived)
        checks = (cut - 9) // (BLOCK_BYTES + 1)
        assert len(arrived) == cut - 9 - checks


@settings(max_examples=300)
@given(payloads, sides, sides, st.data())
def test_every_change_before_the_last_check_is_refused(payload, height, width, data):
    stream = bytearray(progressive(payload, height, width))
    checked = len(stream) - len(payload) % BLOCK_BYTES
    position = data.draw(st.integers(0, checked - 1))
    stream[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BitstreamError):
        unpack_progressive(bytes(stream), fingerprint=FINGERPRINT)


def test_what_precedes_the_corruption_is_named():
    stream = bytearray(progressive(bytes(range(200))))
    stream[100] ^= 1
    with pytest.raises(BitstreamError, match="corrupted after its first 73 bytes"):
        unpack_progressive(bytes(stream), fingerprint=FINGERPRINT)
    (arrived,) = unpack_progressive(bytes(stream[:73]), fingerprint=FINGERPRINT).sections
    assert arrived == bytes(range(63))


@given(st.integers(0, 1000), sides, sides)
def test_the_longest_payload_that_fits(num_bytes, height, width):
    fits = fitting_payload(num_bytes, height=height, width=width)
    assert len(progressive(bytes(fits), height, width)) <= num_bytes or fits == 0
    assert len(progressive(bytes(fits + 1), height, width)) > num_bytes


def test_the_two_containers_do_not_read_each_other():
    whole = pack([b"abc"], height=8, width=8, fingerprint=FINGERPRINT)
    with pytest.raises(BitstreamError, match="format version 2, this decoder reads 1"):
        read(progressive(bytes(20)), 1)
    with pytest.raises(BitstreamError, match="format version 1, this decoder reads 2"):
        unpack_progressive(whole, fingerprint=FINGERPRINT)


def test_a_progressive_stream_of_other_weights_is_refused():
    with pytest.raises(BitstreamError, match="other weights"):
        unpack_progressive(progressive(bytes(20)), fingerprint=OTHER)
    # The same two bytes at their front: the header's checksum knows the rest.
    similar = FINGERPRINT[:2] + bytes(30)
    with pytest.raises(BitstreamError, match="checksum mismatch"):
        unpack_progressive(progressive(bytes(20)), fingerprint=similar)


@pytest.mark.parametrize(("height", "width"), [(0, 8), (MAX_SIDE + 1, 1), (MAX_SIDE, MAX_SIDE)])
def test_impossible_sizes_of_a_progressive_stream_are_refused(height, width):
    with pytest.raises(ValueError, match="image size"):
        progressive(b"", height, width)
