import math

import pytest
import torch

from diffcodec.diffc.channel import Nearest, Poisson
from diffcodec.diffc.schedule import Schedule
from diffcodec.zero_shot.ladder import Ladder, first_index
from diffcodec.zero_shot.refinement import Refinement
from tests.gaussian import Gaussian

DATA = Gaussian(mean=0.0, std=1.0)
START = 100.0


def start(size=(32, 32), sent=None, estimate=DATA.denoise, channel=None) -> Refinement:
    noise = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    channel = channel or Nearest(12)
    return Refinement(estimate, START * noise, START, size=sent or size, channel=channel)


def walk(x0, shared, num_levels, bits=10.0, length=1 << 12):
    """The levels of a sender, and the indices of each."""
    sent = x0.numel()
    counts = Schedule(0.3, bits, length).chunk_counts(sent)
    ends = {"sigma": START, "min_sigma": 0.01}
    first = first_index(shared.error(x0))
    ladder = Ladder(counts, bits, num_values=sent, **ends, first=first)
    told = []
    for _ in range(num_levels):
        level = ladder.open(ladder.index_of(shared.error(x0)))
        told.append((level, shared.send(x0, level)))
    return told


@pytest.fixture
def x0():
    return torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))


# The nearest candidate has less noise than it should along mu, one of its few dimensions here.
@pytest.mark.parametrize(
    ("channel", "bits", "tolerance"), [(Nearest(12), 10.0, 0.15), (Poisson(14), 4.0, 0.05)]
)
def test_what_both_sides_hold_is_x0_with_the_noise_of_the_level(x0, channel, bits, tolerance):
    shared = start(channel=channel)
    told = walk(x0, shared, 26, bits=bits)
    assert shared.sigma == told[-1][0].next_sigma < 1
    assert (shared.x - x0).std() == pytest.approx(shared.sigma, rel=tolerance)
    # The best estimate of a Gaussian from x0 + sigma eps: sigma^2 / (1 + sigma^2).
    expected = shared.sigma / math.sqrt(1 + shared.sigma**2)
    assert math.sqrt(shared.error(x0)) == pytest.approx(expected, rel=tolerance)


def test_the_rate_is_close_to_what_it_must_be(x0):
    shared = start()
    told = walk(x0, shared, 26, bits=Nearest(12).useful_bits)
    bits = 13 * sum(len(indices) for _, indices in told)
    needed = x0.numel() / 2 * math.log2(1 / shared.error(x0))
    assert 1 < bits / needed < 1.45


def test_the_receiver_holds_what_the_sender_does(x0):
    sender, receiver = start(), start()
    for level, indices in walk(x0, sender, 12):
        receiver.receive(indices, level)
    assert torch.equal(receiver.x, sender.x)
    assert torch.equal(receiver.x0, sender.x0)


def test_chunks_that_are_missing_leave_their_numbers_to_the_flow(x0):
    sender, receiver, without = start(), start(), start()
    told = walk(x0, sender, 16)
    for level, indices in told[:-1]:
        receiver.receive(indices, level)
        without.receive(indices, level)
    level, indices = told[-1]
    flow = without.x0 + level.next_sigma / level.sigma * (without.x - without.x0)
    without.receive(indices[:0], level)
    assert torch.allclose(without.x, flow)
    receiver.receive(indices[:2], level)
    length = -(-x0.numel() // level.count)
    assert ((receiver.x == sender.x).sum() - 2 * length).abs() < length / 10
    assert without.error(x0) > receiver.error(x0) > sender.error(x0)


def test_padding_costs_nothing_and_goes_along(x0):
    sender, receiver = start((32, 48), (32, 32)), start((32, 48), (32, 32))
    padded = torch.cat([x0, torch.full((1, 4, 32, 16), 9.0)], dim=3)
    for level, indices in walk(x0, _Cropped(sender, padded), 20):
        receiver.receive(indices, level)
    assert torch.equal(receiver.x, sender.x)
    assert sender.error(padded) < 0.6
    # No information came about it: what the flow makes of the start.
    flow = DATA.flow(START * _noise(), START, sender.sigma)[..., 32:]
    assert (sender.x[..., 32:] - flow).abs().mean() < 0.2 * flow.abs().mean()


class _Cropped:
    """A sender whose x0 has padding."""

    def __init__(self, shared, padded):
        self.shared, self.padded = shared, padded

    def error(self, _):
        return self.shared.error(self.padded)

    def send(self, _, level):
        return self.shared.send(self.padded, level)


def _noise():
    return torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(0))


def test_differences_between_both_sides_networks_do_not_grow(x0):
    generator = torch.Generator().manual_seed(5)

    def rounded(x, sigma):
        x0_hat = DATA.denoise(x, sigma)
        return x0_hat + 0.01 * torch.randn(x0_hat.shape, generator=generator)

    told = walk(x0, start(), 26)
    one, other = start(), start(estimate=rounded)
    for level, indices in told:
        one.receive(indices, level)
        other.receive(indices, level)
        assert (one.x0 - other.x0).square().mean().sqrt() < 0.02
