import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats

from diffcodec.coding.bits import BitWriter
from diffcodec.diffc.channel import (
    CHANNELS,
    Nearest,
    Poisson,
    find_channel,
)
from diffcodec.diffc.stream import ZipfCode


def directions(count: int, length: int, divergence: float) -> torch.Tensor:
    """Random mu (count, length), all with the same KL divergence in bits."""
    mu = torch.randn(count, length, generator=torch.Generator().manual_seed(3))
    return mu * (math.sqrt(2 * math.log(2) * divergence) / mu.norm(dim=1, keepdim=True))


def projections(samples: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """How far each sample gets along its mu, in units of |mu|."""
    return (samples * mu).sum(1) / mu.square().sum(1)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("log2_candidates", [1, 5, 8])
def test_scores_are_the_inner_products_of_what_is_decoded(name, log2_candidates):
    channel = find_channel(name)(log2_candidates)
    mu = directions(1, channel.num_candidates - 1, 4.0).double()
    indices = torch.arange(channel.num_indices)
    rows, signs = channel.split(indices)
    samples = [channel.decode(index[None], mu.shape[1], key=9)[0] for index in indices]
    expected = torch.stack(samples).double() @ mu[0]
    scores = channel.scores(mu, key=9)[0]
    assert torch.allclose(scores[rows] * signs, expected, atol=1e-5)
    assert len(torch.unique(rows)) == channel.num_candidates


@pytest.mark.parametrize("name", CHANNELS)
def test_the_receiver_has_what_the_sender_has(name):
    channel = find_channel(name)(9)
    mu = directions(7000, 40, 6.0)  # more than one batch
    indices, samples = channel.encode(mu, key=2)
    assert indices.min() >= 0
    assert indices.max() < channel.num_indices
    assert torch.equal(channel.decode(indices, 40, key=2), samples)
    assert torch.equal(channel.decode(indices[:5], 40, key=2), samples[:5])
    assert not torch.equal(channel.decode(indices[:5], 40, key=3), samples[:5])
    nothing, no_samples = channel.encode(mu[:0], key=2)
    assert nothing.shape == (0,)
    assert no_samples.shape == channel.decode(nothing, 40, key=2).shape == (0, 40)


def test_samples_are_the_same_with_any_number_of_threads():
    indices = torch.arange(40) * 1601
    before = torch.get_num_threads()
    try:
        decoded = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            decoded.append(Nearest(15).decode(indices, 3000, key=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*decoded)


def test_samples_are_the_same_on_every_machine():
    # Found once; another value means that old streams decode to something else.
    for log2_candidates, expected in ((8, "d762"), (15, "4300")):
        samples = Nearest(log2_candidates).decode(torch.arange(0, 200, 7), 200, key=5)
        assert hashlib.sha256(samples.numpy().tobytes()).hexdigest()[:4] == expected


def test_candidates_are_integers_over_the_root_of_their_number():
    whole = Nearest(10).decode(torch.arange(64), 1024, key=0) * 32
    assert torch.equal(whole, whole.round())


def smooth(samples: torch.Tensor, size: int) -> torch.Tensor:
    """Samples between their integers, which a test of so many would see."""
    generator = torch.Generator().manual_seed(2)
    dither = 2 * torch.rand(samples.shape, generator=generator, dtype=torch.float64) - 1
    return samples.double() + dither / math.sqrt(size)


def test_candidates_are_standard_normal():
    samples = smooth(Poisson(12).decode(torch.arange(2000) % 4096, 32, key=7), 4096)
    assert stats.kstest(samples.flatten().numpy(), "norm").pvalue > 1e-3
    covariance = samples.T @ samples / len(samples)
    assert (covariance - torch.eye(32)).abs().max() < 5 / math.sqrt(len(samples))


def test_poisson_samples_have_the_distribution_that_is_asked_for():
    # Where |mu| = 1.4, next to nothing of N(mu, I) lies beyond the best of 2^14 candidates.
    count, length = 4000, 24
    mu = directions(1, length, 1.5)[0]
    _, samples = Poisson(14).encode(mu.repeat(count, 1), key=11)
    noise = smooth(samples, 1 << 14) - mu
    deviation = 1 / math.sqrt(count)
    assert noise.mean(0).abs().max() < 5 * deviation
    covariance = noise.T @ noise / count
    assert (covariance - torch.eye(length)).abs().max() < 6 * deviation
    along = noise @ mu.double() / mu.double().norm()
    for values in (along, *noise.T[:4]):
        assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", CHANNELS)
def test_samples_are_exact_where_products_are_not(name):
    channel = find_channel(name)(13)
    indices = torch.arange(0, channel.num_indices, 501)
    expected = channel.decode(indices, 900, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(channel.decode(indices, 900, 5), expected)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(channel.decode(indices, 900, 5), expected)
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(("divergence", "log2_candidates"), [(4.0, 9), (8.0, 12), (11.0, 14)])
def test_indices_cost_little_more_than_the_divergence(divergence, log2_candidates):
    indices, _ = Poisson(log2_candidates).encode(directions(300, 60, divergence), key=4)
    code, writer = ZipfCode(log2_candidates, divergence), BitWriter()
    for index in indices.tolist():
        code.write(index, writer)
    assert writer.num_bits / 300 < divergence + math.log2(divergence + 1) + 1


@pytest.mark.parametrize("log2_candidates", [8, 12])
def test_poisson_does_what_it_does_with_gaussian_candidates(log2_candidates):
    divergence, count, length = log2_candidates - 2.0, 400, 48
    size = 1 << log2_candidates
    mu = directions(count, length, divergence)
    indices, samples = Poisson(log2_candidates).encode(mu, key=6)
    ours = projections(samples, mu)
    generator = torch.Generator().manual_seed(1)
    octaves, theirs = [], []
    for row in mu:
        candidates = torch.randn(size, length, generator=generator)
        times = torch.empty(size).exponential_(generator=generator).cumsum(0).log()
        index = int((times - candidates @ row).argmin())
        octaves.append(math.log2(index + 1))
        theirs.append(float(candidates[index] @ row / row.square().sum()))
    error = math.sqrt(2 / count)
    assert abs(ours.mean() - np.mean(theirs)) < 4 * error * np.std(theirs)
    length_of_ours = (indices + 1).double().log2()
    assert abs(length_of_ours.mean() - np.mean(octaves)) < 4 * error * np.std(octaves)


def test_the_nearest_candidate_is_the_best_of_them_along_mu_and_noise_across_it():
    channel = Nearest(12)
    mu = directions(3000, 40, channel.useful_bits)
    _, samples = channel.encode(mu, key=8)
    along = projections(samples, mu)
    # `useful_bits` is that of a mu as long as the best of 2^13 normal numbers is large.
    assert abs(along.mean() - 1) < 0.02
    across = (samples - along[:, None] * mu).double()
    assert across.square().sum(1).mean() / 39 == pytest.approx(1, abs=0.02)
    assert across.mean(0).abs().max() < 5 / math.sqrt(len(mu))


def test_nearest_gets_as_far_in_fewer_bits():
    mu = directions(400, 60, 10.0)
    indices, samples = Poisson(12).encode(mu, key=0)
    code, writer = ZipfCode(12, 10.0), BitWriter()
    for index in indices.tolist():
        code.write(index, writer)
    _, others = Nearest(9).encode(mu, key=0)  # 10 bits
    assert writer.num_bits / 400 > 10
    assert projections(others, mu).mean() > 0.99 * projections(samples, mu).mean()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 to 20, got 21"):
        Nearest(21)
    with pytest.raises(ValueError, match="1 to 16 numbers, got 17"):
        Nearest(4).encode(torch.zeros(1, 17), key=0)
    with pytest.raises(ValueError, match="1 to 16 numbers, got 0"):
        Poisson(4).decode(torch.zeros(1, dtype=torch.int64), 0, key=0)
    with pytest.raises(ValueError, match="'gauss', choose from nearest, poisson"):
        find_channel("gauss")
