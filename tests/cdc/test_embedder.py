import pytest
import torch

from diffcodec.cdc.embedder import ContextEmbedder


@pytest.mark.parametrize("latent_channels", [0, 5])
@pytest.mark.parametrize(("patch", "count"), [(1, 4), (2, 3), (8, 1)])
def test_maps_have_the_sizes_and_channels_that_it_says(patch, count, latent_channels):
    embedder = ContextEmbedder(3, patch=patch, latent_channels=latent_channels)
    y_hat = torch.randn(2, latent_channels, 4, 8) if latent_channels else None
    contexts = embedder(torch.rand(2, 3, 64, 128), torch.tensor([0.002, 0.1]), y_hat)
    assert [c.shape[1] for c in contexts] == embedder.context_channels
    assert [tuple(c.shape[2:]) for c in contexts] == [
        (64 // patch >> i, 128 // patch >> i) for i in range(len(contexts))
    ]
    assert len(contexts) == count + bool(latent_channels)


def test_every_input_reaches_the_contexts():
    torch.manual_seed(0)
    embedder = ContextEmbedder(3, latent_channels=5)
    x_hat, y_hat = torch.rand(1, 3, 32, 32), torch.randn(1, 5, 2, 2)
    lmbda = torch.tensor([0.01])
    contexts = embedder(x_hat, lmbda, y_hat)
    others = embedder(x_hat, 2 * lmbda, y_hat)
    assert all(not torch.equal(a, b) for a, b in zip(contexts[:4], others[:4], strict=True))
    assert not torch.equal(embedder(x_hat, lmbda, 2 * y_hat)[4], contexts[4])
    assert not torch.equal(embedder(1 - x_hat, lmbda, y_hat)[3], contexts[3])


def test_an_unknown_rate_is_a_typical_one():
    embedder = ContextEmbedder(3)
    x_hat = torch.rand(1, 3, 32, 32)
    for a, b in zip(embedder(x_hat), embedder(x_hat, torch.tensor([0.013])), strict=True):
        torch.testing.assert_close(a, b)
