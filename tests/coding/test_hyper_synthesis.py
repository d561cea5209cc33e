import pytest
import torch
from compressai.models import (
    Cheng2020Anchor,
    Elic2022Official,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from torch import nn

from diffcodec.base.hific import HyperSynthesis
from diffcodec.coding.hyper_synthesis import ScalesThenMeans, exact_synthesis

N, M = 8, 12
NETWORKS = {
    "bmshj2018-hyperprior": lambda: ScaleHyperprior(N, M).h_s,
    "mbt2018-mean": lambda: MeanScaleHyperprior(N, M).h_s,
    "cheng2020-anchor": lambda: Cheng2020Anchor(N).h_s,
    "elic": lambda: Elic2022Official(N, 20, [4] * 5).latent_codec["hyper"].h_s,
    "hific": lambda: HyperSynthesis(M, N),
}


def build(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    return NETWORKS[name]()


@pytest.fixture
def z_hat() -> torch.Tensor:
    return (torch.randn(1, N, 3, 5, generator=torch.Generator().manual_seed(0)) * 5).round()


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_close_to_the_network(name, z_hat):
    h_s = build(name)
    with torch.no_grad():
        expected = h_s.double()(z_hat.double())
    torch.testing.assert_close(exact_synthesis(h_s)(z_hat), expected, rtol=0, atol=1e-3)


def test_scales_are_exact_and_means_are_the_network_s(z_hat):
    h_s = build("mbt2018-mean")
    scales, means = ScalesThenMeans(h_s)(z_hat).chunk(2, dim=1)
    assert torch.equal(scales, exact_synthesis(h_s)(z_hat)[:, :M])
    with torch.no_grad():
        torch.testing.assert_close(means.float(), h_s(z_hat)[:, M:], rtol=0, atol=1e-3)


def test_scales_do_not_depend_on_threads_or_on_the_memory_format(z_hat):
    h_s = build("mbt2018-mean")
    expected = ScalesThenMeans(h_s)(z_hat)[:, :M]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        other = ScalesThenMeans(h_s.to(memory_format=torch.channels_last))
        assert torch.equal(other(z_hat)[:, :M], expected)
    finally:
        torch.set_num_threads(threads)


def test_the_network_stays_as_it_was(z_hat):
    h_s = build("mbt2018-mean")
    before = {name: tensor.clone() for name, tensor in h_s.state_dict().items()}
    ScalesThenMeans(h_s)(z_hat)
    assert h_s[-1].out_channels == 2 * M
    assert all(torch.equal(tensor, before[name]) for name, tensor in h_s.state_dict().items())
    assert all(parameter.requires_grad for parameter in h_s.parameters())


def test_weights_that_cannot_be_exact_are_refused():
    h_s = build("mbt2018-mean")
    with torch.no_grad():
        h_s[2].weight.mul_(1e12)
    with pytest.raises(ValueError, match="weights of the hyper-synthesis are too large"):
        ScalesThenMeans(h_s)
