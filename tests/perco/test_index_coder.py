import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.entropy import MAX_FREQUENCIES
from diffcodec.perco import index_coder as module
from diffcodec.perco.index_coder import (
    INDEX_CODERS,
    ModelCoder,
    SinglePrecision,
    TableCoder,
    _Halves,
    index_coder,
    to_frequencies,
)
from diffcodec.perco.index_model import NUM_GROUPS, IndexModel, groups


@pytest.fixture(scope="module")
def model() -> IndexModel:
    torch.manual_seed(0)
    model = IndexModel(24, channels=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        model.counts += torch.arange(24) ** 3
    return model


def grid(height: int, width: int) -> torch.Tensor:
    return torch.randint(24, (height, width), generator=torch.Generator().manual_seed(height))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(INDEX_CODERS), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_any_grid_comes_back(model, name, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(24, (height, width), generator=generator)
    coder = index_coder(name, model, 24)
    assert torch.equal(coder.decode(coder.encode(indices), height, width), indices)


@pytest.mark.parametrize("name", INDEX_CODERS)
def test_what_no_encoder_wrote_is_refused(model, name):
    coder = index_coder(name, model, 24)
    data = coder.encode(grid(8, 9))
    for other in (data[:-1], data + b"\0", b"", b"\xff" * len(data)):
        with pytest.raises(BitstreamError):
            coder.decode(other, 8, 9)
    for size in ((8, 8), (9, 9)):
        with pytest.raises(BitstreamError):
            coder.decode(data, *size)


def test_vectors_come_back_as_they_were():
    coder = SinglePrecision(3)
    z = torch.tensor([[[0.1, -7.0]], [[1e6, 2**-30]], [[65504.0, -1e9]]])
    data = coder.encode(z)
    assert len(data) == 24
    assert torch.equal(coder.decode(data, 1, 2), z)
    for other in (data[:-1], data + b"\0\0\0\0", b""):
        with pytest.raises(BitstreamError, match="take 24 bytes"):
            coder.decode(other, 1, 2)
    with pytest.raises(BitstreamError, match="NaN or Inf"):
        coder.decode(b"\x00\x00\x80\x7f" * 6, 1, 2)


@pytest.mark.parametrize("name", ["table", "model"])
def test_mutated_bytes_decode_to_codes_or_are_refused(model, name):
    coder = index_coder(name, model, 24)
    data = bytearray(coder.encode(grid(8, 9)))
    for position in range(len(data)):
        mutated = bytes([*data[:position], data[position] ^ 0x5A, *data[position + 1 :]])
        try:
            found = coder.decode(mutated, 8, 9)
        except BitstreamError:
            continue
        assert 0 <= found.min() <= found.max() < 24


def test_the_length_is_what_the_network_says(model):
    indices = grid(40, 40)
    with torch.no_grad():
        ideal = float(model.num_bits(indices[None]).sum())
    # A whole number of 32-bit words, and probabilities of 16 bits.
    assert 8 * len(ModelCoder(model).encode(indices)) == pytest.approx(ideal, rel=0.01, abs=64)


def test_the_length_by_the_table_is_the_cross_entropy(model):
    indices = grid(40, 40)
    p = model.counts / model.counts.sum()
    ideal = -float(p[indices].clamp(min=1 / MAX_FREQUENCIES).log2().sum())
    length = 8 * len(index_coder("table", model, 24).encode(indices))
    assert length == pytest.approx(ideal, rel=0.01, abs=64)


def test_bytes_do_not_depend_on_threads_strips_or_where_the_model_was(model, monkeypatch):
    indices = grid(21, 13)
    expected = ModelCoder(model).encode(indices)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert ModelCoder(model).encode(indices) == expected
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(module, "_VALUES_PER_STRIP", 24 * 13 * 2)
    by_strips = ModelCoder(model)
    assert torch.equal(by_strips.decode(by_strips.encode(indices), 21, 13), indices)
    # Strips change the order of the codes within a group, and nothing of their probabilities.
    whole, parts = (
        all_weights(ModelCoder(model), indices, 1 << 21, monkeypatch),
        all_weights(by_strips, indices, 24 * 13 * 2, monkeypatch),
    )
    assert torch.equal(whole, parts)
    channels_last = IndexModel(24, channels=8)
    channels_last.load_state_dict(model.state_dict())
    channels_last.to(memory_format=torch.channels_last)
    monkeypatch.setattr(module, "_VALUES_PER_STRIP", 1 << 21)
    assert ModelCoder(channels_last).encode(indices) == expected


def all_weights(coder, indices, values, monkeypatch) -> torch.Tensor:
    monkeypatch.setattr(module, "_VALUES_PER_STRIP", values)
    out = torch.zeros(*indices.shape, 24, dtype=torch.int64)
    for number in range(NUM_GROUPS):
        for where, rows in coder.weights(indices, number):
            out[where] = rows
    return out


def test_probabilities_are_the_softmax_of_the_network(model):
    indices = grid(11, 13)  # with places that see no border
    group = groups(11, 13)
    coder = ModelCoder(model)
    with torch.no_grad():
        for number in range(NUM_GROUPS):
            ((where, found),) = coder.weights(indices, number)
            expected = model(indices[None], group < number)[0].softmax(0)[:, where].T
            # Logits are rounded to 1/32.
            close = (found / found.sum(1, keepdim=True) - expected).abs()
            assert (close <= expected / 30 + 1e-8).all()


def test_a_stream_is_refused_where_the_halves_are_of_no_code():
    # 9 codes are upper halves 0, 1 and 2 of four codes each, and the last has one code alone.
    coder = TableCoder(torch.ones(9, dtype=torch.int64))
    data = coder.encode(torch.full((1, 1), 9))
    with pytest.raises(BitstreamError, match=r"a code is not in \[0, 9\)"):
        coder.decode(data, 1, 1)


@pytest.mark.parametrize("num_codes", [1, 2, 3, 9, 24, 256, 1000])
def test_halves_hold_the_probabilities_of_all_codes(num_codes):
    weights = torch.randint(1, 1 << 20, (5, num_codes))
    halves = _Halves(weights)
    p = torch.zeros(5, num_codes)
    for code in range(num_codes):
        upper = torch.full((5,), code // halves.size)
        lower = halves.of_lower(upper)[:, code % halves.size]
        p[:, code] = halves.of_upper[:, code // halves.size] * lower / MAX_FREQUENCIES**2
    expected = weights / weights.sum(1, keepdim=True)
    assert (p - expected).abs().max() < 3 * num_codes / MAX_FREQUENCIES
    assert p.sum(1).min() > 1 - 3 * num_codes / MAX_FREQUENCIES


@given(st.lists(st.integers(0, 2**31), min_size=2, max_size=300).filter(any))
def test_frequencies_are_in_proportion(weights):
    row = torch.tensor([weights])
    found = to_frequencies(row)
    assert int(found.sum()) == MAX_FREQUENCIES
    assert int(found.min()) >= 1
    ideal = row / row.sum() * (MAX_FREQUENCIES - len(weights)) + 1
    difference = found - ideal
    assert difference.min() > -1.01
    assert math.isclose(float(difference.abs().sum()), 0, abs_tol=2 * len(weights) + 1)


def test_a_model_that_was_not_trained_is_refused():
    with pytest.raises(ValueError, match="experiment=perco/index_model"):
        index_coder("model", IndexModel(8), 8)
