import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.cdc.compressor import Compressor
from diffcodec.coding.integer_convolutions import (
    EXACT_BITS,
    MAX_FRACTION_BITS,
    RANGE_BITS,
    WEIGHT_BITS,
    ExactConvolutions,
)


@pytest.fixture
def h_s() -> nn.Sequential:
    torch.manual_seed(0)
    return Compressor(8, (1, 2, 3, 4), (4, 4, 4), 8).h_s


@pytest.fixture
def z_hat() -> Tensor:
    return (torch.randn(1, 32, 5, 7) * 4).round()


def exact(network: nn.Sequential) -> ExactConvolutions:
    return ExactConvolutions(network, name="network")


def test_it_is_close_to_the_network(h_s, z_hat):
    with torch.no_grad():
        expected = h_s(z_hat)
    torch.testing.assert_close(exact(h_s)(z_hat).float(), expected, rtol=0, atol=1e-4)


def test_thread_counts_do_not_matter(h_s, z_hat):
    threads = torch.get_num_threads()
    network = exact(h_s)
    try:
        results = []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(network(z_hat))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_batch_and_memory_format_do_not_matter(h_s, z_hat):
    network = exact(h_s)
    expected = network(z_hat)
    batch = network(torch.cat([z_hat, -z_hat, z_hat]))
    assert torch.equal(expected, batch[2:])
    assert torch.equal(expected, network(z_hat.to(memory_format=torch.channels_last)))
    assert torch.equal(expected, exact(h_s.to(memory_format=torch.channels_last))(z_hat))


def test_the_order_of_summation_does_not_matter(h_s, z_hat):
    # The same network with its hidden channels in another order adds the same products differently.
    expected = exact(h_s)(z_hat)
    order = torch.randperm(h_s[0].out_channels)
    with torch.no_grad():
        h_s[0].weight.copy_(h_s[0].weight[:, order].clone())
        h_s[0].bias.copy_(h_s[0].bias[order].clone())
        h_s[2].weight.copy_(h_s[2].weight[order].clone())
    assert torch.equal(expected, exact(h_s)(z_hat))


def test_it_is_integer_arithmetic(h_s, z_hat):
    network = exact(nn.Sequential(h_s[4]))
    x = torch.randn(1, 32, 4, 4)
    layer = network._layers[0]
    a = (x.double() * 2**layer.fraction_bits).round().long()
    w = (h_s[4].weight.double() * 2**WEIGHT_BITS).round().long()
    b = (h_s[4].bias.double() * 2 ** (WEIGHT_BITS + layer.fraction_bits)).round().long()
    columns = F.unfold(a.double(), 3, padding=1).long()  # exact: a permutation
    out = (w.flatten(1) @ columns + b[:, None]).reshape(1, -1, 4, 4)
    result = network(x) * 2.0 ** (WEIGHT_BITS + layer.fraction_bits)
    assert torch.equal(result.long(), out)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_no_sum_can_leave_the_exact_integers(h_s, scale):
    with torch.no_grad():
        for conv in h_s[::2]:
            conv.weight.mul_(scale)
    for layer in exact(h_s)._layers:
        dims = (0, 2, 3) if layer.transposed else (1, 2, 3)
        largest = layer.weight.abs().sum(dims).max() * 2.0 ** (RANGE_BITS + layer.fraction_bits)
        assert largest < 2**EXACT_BITS


def test_hostile_hyper_latents_stay_finite(h_s):
    assert exact(h_s)(torch.full((1, 32, 2, 2), 1e9)).isfinite().all()


def test_weights_that_cannot_be_exact_are_refused(h_s):
    with torch.no_grad():
        h_s[2].weight.mul_(1e12)
    with pytest.raises(ValueError, match="too large for integer coding"):
        exact(h_s)
    with torch.no_grad():
        h_s[2].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        exact(h_s)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(h_s, z_hat):
    expected = exact(h_s)(z_hat)
    assert torch.equal(expected, exact(h_s.cuda())(z_hat.cuda()))


def test_relu_and_pixel_shuffle_follow_convolutions(z_hat):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(32, 16, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2)),
        nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(3, 5, 3, padding=1),
    )
    with torch.no_grad():
        expected = network.double()(z_hat.double())
    torch.testing.assert_close(exact(network)(z_hat), expected, rtol=0, atol=1e-4)


def test_layers_of_other_kinds_are_refused():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh())
    with pytest.raises(ValueError, match="unsupported layer Tanh in the "):
        exact(network)


def test_fewer_bits_of_a_weight_leave_more_for_activations(h_s, z_hat):
    with torch.no_grad():
        h_s[4].weight.mul_(100)
    many, few = (ExactConvolutions(h_s, name="network", weight_bits=bits) for bits in (20, 14))
    for one, other in zip(many._layers, few._layers, strict=True):
        assert one.fraction_bits < other.fraction_bits <= MAX_FRACTION_BITS
        reach = other.weight.abs().sum((1, 2, 3)).max() * 2.0 ** (RANGE_BITS + other.fraction_bits)
        assert other.transposed or reach < 2**EXACT_BITS
