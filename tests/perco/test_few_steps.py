"""PerCo trained through the steps of its own sampler."""

import pytest
import torch
from torch.utils.data import DataLoader

from diffcodec.perco import codec as module
from diffcodec.training.decoder_loss import DecoderLoss
from diffcodec.training.few_steps import FewStepTraining
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
