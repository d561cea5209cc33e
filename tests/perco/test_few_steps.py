"""PerCo trained through the steps of its own sampler."""

import pytest
import torch
from torch.utils.data import DataLoader

from diffcodec.perco import PerCo, TrainingSettings
from diffcodec.perco import codec as module
from diffcodec.training.decoder_loss import DecoderLoss
from diffcodec.training.few_steps import FewStepTraining
from diffcodec.weights.model_folder import load_model
from tests.trainers import quiet_trainer

SEED = 7


@pytest.fixture
def codec(make_codec):
    codec = make_codec(guidance=1.0, noise_seed=SEED, finetune="all", caption_max_bpp=0.01)
    return codec.to(torch.float32)


def test_what_is_trained_is_what_is_decoded(codec, photo, monkeypatch):
    x = photo[..., 20:92, 180:280]

    def noise(like):
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(SEED)).to(like)

    for point in codec.points:
        decoded = codec.decompress(codec.compress(x, point), point)
        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setattr(module.torch, "randn_like", noise)
            resampled = codec.resample({"image": x}, point).x_hat
        torch.testing.assert_close(resampled.clamp(0, 1), decoded, rtol=0, atol=1e-5)


def test_only_the_unet_and_the_null_text_are_trained(codec, photo, tmp_path):
    crops = [photo[0, :, i : i + 64, 2 * i : 2 * i + 64] for i in range(0, 80, 20)]
    loader = DataLoader(
        [{"image": x, "index": i, "name": f"{i}"} for i, x in enumerate(crops)], batch_size=2
    )
    loss = DecoderLoss(perceptual="st-alex", adversarial_weight=0.05, width=8)
    part = FewStepTraining(codec, loss=loss, lr=1e-3, warmup_steps=1)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    quiet_trainer(tmp_path, max_steps=4, gradient_clip_val=1.0).fit(part, loader)
    changed = {n for n, value in codec.state_dict().items() if not torch.equal(value, before[n])}
    assert any(name.startswith("model.backbone.unet.down_blocks") for name in changed)
    assert all(n.startswith(("model.backbone.unet.", "model.null_text")) for n in changed)


def test_the_denoiser_without_codes_is_kept(codec, photo):
    x = photo[..., :64, :64]
    resampled = codec.resample({"image": x}, codec.points[0])
    assert resampled.loss == resampled.logged["v_loss"] > 0
    resampled.loss.backward()
    unet = codec.model.backbone.unet
    assert unet.conv_out.weight.grad.abs().sum() > 0
    local = unet.conv_in.weight.grad[:, codec.model.backbone.latents.channels :]
    assert not local.any()  # the codes are zero


@pytest.fixture
def tuned(make_codec, tmp_path):
    """A folder with a PerCo, and one whose U-Net was trained on from there."""
    options = {"guidance": 1.0, "noise_seed": SEED, "caption_max_bpp": 0.01}
    codec = make_codec(finetune="all", **options)
    codec.save(tmp_path / "base")
    with torch.no_grad():
        for parameter in codec.model.backbone.unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    codec.save(tmp_path / "tuned")
    return tmp_path


def decoded(codec, x):
    point = codec.points[-1]
    return codec.decompress(codec.compress(x, point), point)


def test_low_rank_updates_keep_the_backbone_for_others(tuned, make_codec, make_backbone, photo):
    x = photo[..., :64, :64]
    group = TrainingSettings(finetune="low_rank", lora_rank=64, learned_null=False)
    base, full = (load_model(str(tuned / name)).eval() for name in ("base", "tuned"))
    few = PerCo(
        make_backbone(weights=str(tuned / "base")), training=group, weights=str(tuned / "tuned")
    ).eval()
    # Of full rank, only biases and normalizations differ from the tuned network.
    error = (decoded(few, x) - decoded(full, x)).abs().mean()
    assert error < 0.5 * (decoded(few, x) - decoded(base, x)).abs().mean()
    trained = {n for n, p in few.model.backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all(".parametrizations.weight.0." in name for name in trained)

    few.save(tuned / "few")
    again = load_model(str(tuned / "few")).eval()
    torch.testing.assert_close(decoded(again, x), decoded(few, x), rtol=0, atol=1e-6)
    # Other codecs get the backbone as it was.
    backbone = make_backbone(weights=str(tuned / "few"))
    for name, weight in base.model.backbone.unet.state_dict().items():
        assert torch.equal(backbone.unet.state_dict()[name], weight), name
    assert torch.equal(backbone.null_text(), base.model.null_text)
    # A PerCo on it takes the updates, and merges them if its whole U-Net is trained.
    on_it = PerCo(make_backbone(weights=str(tuned / "few"))).eval()
    torch.testing.assert_close(decoded(on_it, x), decoded(few, x), rtol=0, atol=1e-6)
    merged = PerCo(
        make_backbone(weights=str(tuned / "few")), training=TrainingSettings(finetune="all")
    ).eval()
    assert not any("parametrizations" in name for name in merged.state_dict())
    torch.testing.assert_close(decoded(merged, x), decoded(few, x), rtol=0, atol=1e-4)
    loaded = PerCo(
        make_backbone(),
        training=TrainingSettings(finetune="all"),
        weights=str(tuned / "few"),
    ).eval()
    torch.testing.assert_close(decoded(loaded, x), decoded(few, x), rtol=0, atol=1e-4)


def test_low_rank_training_needs_no_denoising_loss(make_codec, photo):
    codec = make_codec(finetune="low_rank", lora_rank=2, learned_null=False, guidance=1.0)
    resampled = codec.resample({"image": photo[..., :64, :64]}, codec.points[-1])
    assert resampled.loss is None
    resampled.x_hat.sum().backward()
    named = codec.model.named_parameters()
    assert all(".parametrizations.weight.0." in n for n, p in named if p.grad is not None)
