import pytest
import torch

from diffcodec.metrics.fid import frechet_distance
from diffcodec.metrics.kid import kernel_distance


def test_kernel_distance_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 5, generator=generator, dtype=torch.float64) + 0.5

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    expected = (
        sum(k(x[i], x[j]) for i, j in pairs) / (n * (n - 1))
        + sum(k(y[i], y[j]) for i, j in pairs) / (n * (n - 1))
        - 2 * sum(k(a, b) for a in x for b in y) / n**2
    )
    assert kernel_distance(x, y) == pytest.approx(float(expected))


def test_kernel_distance_of_large_sets_is_reproducible_and_near_that_of_all():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 4, generator=generator)
    y = torch.randn(1500, 4, generator=generator) + 1
    state = torch.get_rng_state()
    first = kernel_distance(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert kernel_distance(x, y) == first
    assert first == pytest.approx(kernel_distance(x[:1000], y[:1000]), rel=0.2)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_one_sample_is_not_a_set(distance):
    with pytest.raises(ValueError, match="at least two"):
        distance(torch.zeros(1, 4), torch.zeros(5, 4))
