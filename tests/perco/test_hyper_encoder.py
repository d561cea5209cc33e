import pytest
import torch
from safetensors.torch import load_file

from diffcodec.perco.hyper_encoder import HyperEncoder
from diffcodec.perco.rates import GRIDS, Rate


@pytest.fixture(scope="module")
def reference(reference_folder):
    weights = load_file(reference_folder / "hyper_encoder_weights.safetensors")
    outputs = load_file(reference_folder / "hyper_encoder_outputs.safetensors")

    def of(grid):
        prefix = f"grid{grid}."
        return tuple(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            for tensors in (weights, outputs)
        )

    return of


def tiny(grid: int = 16, **options) -> HyperEncoder:
    torch.manual_seed(0)
    return HyperEncoder(Rate(grid, 16), **{"N": 8, "M": 12, "codebook_dim": 4, **options})


@pytest.mark.parametrize("grid", GRIDS)
def test_it_agrees_with_the_authors(reference, grid):
    weights, outputs = reference(grid)
    encoder = HyperEncoder(Rate(grid, 64), N=32, M=48, codebook_dim=16).eval()
    encoder.load_state_dict(weights, strict=True)
    with torch.no_grad():
        out = encoder(outputs["latent"])
    assert torch.equal(out.indices, outputs["indices"])
    torch.testing.assert_close(out.z, outputs["z"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.z_hat, outputs["z_hat"], rtol=0, atol=1e-5)
    assert torch.equal(encoder.codes(outputs["latent"]), outputs["indices"])
    torch.testing.assert_close(
        encoder.dequantize(outputs["indices"]), outputs["z_hat"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("grid", "count"), [(64, 4_080_128), (8, 5_868_032)])
def test_the_backbone_has_the_authors_parameters(grid, count):
    with torch.device("meta"):
        encoder = HyperEncoder(Rate(grid, 256))
    assert sum(p.numel() for p in encoder.backbone.parameters()) == count


@pytest.mark.parametrize("grid", GRIDS)
def test_the_grid_grows_with_the_latent(grid):
    encoder = tiny(grid)
    stride = 64 // grid
    indices = encoder.codes(torch.randn(2, 4, 2 * stride, 3 * stride))
    assert indices.shape == (2, 2, 3)
    assert encoder.dequantize(indices).shape == (2, 12, 2, 3)


def test_dequantizing_gives_exactly_the_quantised():
    encoder = tiny().eval()
    with torch.no_grad():
        out = encoder(torch.randn(2, 4, 16, 16))
        assert torch.equal(encoder.dequantize(out.indices), out.z_hat)


def test_the_codebook_moves_in_training_but_not_in_coding():
    encoder = tiny().train()
    latent = torch.randn(2, 4, 16, 16)
    before = encoder.quantizer.codebook.clone()
    encoder.codes(latent)
    assert encoder.quantizer.training
    assert torch.equal(encoder.quantizer.codebook, before)
    encoder(latent)
    assert not torch.equal(encoder.quantizer.codebook, before)


@pytest.mark.parametrize("training", [False, True])
def test_sharing_the_codebook_keeps_the_mode_of_the_quantizer(training):
    encoder = tiny().train(training)
    before = encoder.quantizer
    encoder.share_codebook()
    assert encoder.quantizer is not before
    assert {module.training for module in encoder.quantizer.modules()} == {training}
    assert torch.equal(encoder.quantizer.codebook, before.codebook)


def test_gradients_are_straight_through():
    encoder = tiny().train()
    latent = torch.randn(2, 4, 16, 16, requires_grad=True)
    out = encoder(latent)
    (out.z_hat.square().mean() + out.commit_loss).backward()
    assert latent.grad.abs().sum() > 0
    assert encoder.backbone[0].weight.grad.abs().sum() > 0
    assert encoder.quantizer.project_in.weight.grad.abs().sum() > 0


def test_a_grid_finer_than_the_latent_is_refused():
    with pytest.raises(ValueError, match=r"64x64/16.*per 8 pixels.*per 16"):
        tiny(64, latent_stride=16)
