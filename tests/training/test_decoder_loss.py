import pytest
import torch

from diffcodec.training.adversarial import PatchDiscriminator
from diffcodec.training.decoder_loss import DecoderLoss, parameter_groups


@pytest.fixture
def pair():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    return (x * 0.5).requires_grad_(), x


def test_the_discriminator_and_the_decoder_have_gradients_of_their_own(pair):
    torch.manual_seed(0)
    x_hat, x = pair
    discriminator = PatchDiscriminator(8)
    assert discriminator(x).shape == (2, 1, 8, 8)
    discriminator.generator_loss(x_hat).backward()
    assert x_hat.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    x_hat.grad = None
    discriminator.loss(x_hat, x).backward()
    assert x_hat.grad is None
    assert all(p.grad.abs().sum() > 0 for p in discriminator.parameters() if p.ndim > 1)


def test_a_discriminator_learns_to_tell_a_grey_picture_from_a_photograph(photo):
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3)
    x = photo[..., :128, :128] * 2 - 1
    fake = torch.zeros_like(x)
    for _ in range(60):
        loss = discriminator.loss(fake, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7  # 1 where it cannot tell
    assert discriminator(x).mean() > discriminator(fake).mean() + 0.5


def test_the_terms_are_weighted_and_begin_when_they_should(pair):
    x_hat, x = pair
    loss = DecoderLoss(
        mse_weight=2.0,
        perceptual_weight=0.5,
        perceptual="st-alex",
        adversarial_weight=0.1,
        adversarial_start=1000,
        width=8,
    ).eval()
    early, late = loss(x_hat, x, step=0), loss(x_hat, x, step=1000)
    assert set(early) == {"loss", "mse", "perceptual"}
    assert set(loss(x_hat, x, step=900)) == {*early, "discriminator"}
    assert early["mse"].item() == pytest.approx((x_hat - x).square().mean().item())
    assert early["loss"].item() == pytest.approx(
        (2 * early["mse"] + 0.5 * early["perceptual"]).item()
    )
    expected = 2 * late["mse"] + 0.5 * late["perceptual"]
    expected = expected + 0.1 * late["adversarial"] + late["discriminator"]
    assert late["loss"].item() == pytest.approx(expected.item())
    faithful = loss(x_hat, x, step=1000, realism=0.0)
    assert set(faithful) == {"loss", "mse"}
    assert faithful["loss"].item() == pytest.approx(2 * faithful["mse"].item())
    faithful = loss(x_hat, x, step=1000, realism=0.0, mse_weight=50.0)
    assert faithful["loss"].item() == pytest.approx(50 * faithful["mse"].item())
    with pytest.raises(ValueError, match="mse_weight must be at least 0, got -1"):
        DecoderLoss(mse_weight=-1)


def test_one_optimizer_has_a_group_for_the_discriminator():
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    loss = DecoderLoss(perceptual_weight=0, adversarial_weight=0.1, width=8)
    groups = parameter_groups(network, loss, discriminator_lr=1e-4)
    assert [len(group["params"]) for group in groups] == [1, len([*loss.parameters()])]
    assert groups[1]["lr"] == 1e-4
    plain = DecoderLoss(perceptual_weight=0)
    assert len(parameter_groups(network, plain, discriminator_lr=1e-4)) == 1
    assert (
        parameter_groups(network, plain, discriminator_lr=1e-4, only=("bias",))[0]["params"] == []
    )
    network.register_parameter("quantiles", torch.nn.Parameter(torch.zeros(1)))
    groups = parameter_groups(network, plain, discriminator_lr=1e-4, aux_lr=0.1)
    assert [(len(g["params"]), g.get("lr")) for g in groups] == [(1, None), (1, 0.1)]


def test_a_score_depends_on_the_pixels_of_its_patch_alone():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8).eval()
    x = torch.randn(1, 3, 96, 96, requires_grad=True)
    scores = discriminator(x)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    rows, columns = seen.any(dim=1).sum(), seen.any(dim=0).sum()
    assert (int(rows), int(columns)) == (38, 38)
