import pytest
import torch
from torch.utils.data import DataLoader

from diffcodec.latent.parts_training import AutoencoderTraining, TextToImageTraining
from diffcodec.latent.small_backbone import small_autoencoder, small_backbone
from diffcodec.perco.palette import PaletteCaptioner
from diffcodec.training.decoder_loss import DecoderLoss
from diffcodec.weights.model_folder import save_model
from tests.trainers import quiet_trainer


def autoencoder(make_backbone, **options) -> AutoencoderTraining:
    return AutoencoderTraining(make_backbone().latents, **options)


def text_to_image(make_backbone, **options) -> TextToImageTraining:
    options = {"captioner": PaletteCaptioner(), **options}
    return TextToImageTraining(make_backbone(), **options)


def blocks(count, seed=0) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, scale_factor=8)


def loader() -> DataLoader:
    data = [{"image": x, "index": i, "name": f"{i}"} for i, x in enumerate(blocks(8))]
    return DataLoader(data, batch_size=4)


def fit(part, steps, tmp_path) -> None:
    quiet_trainer(tmp_path, max_steps=steps).fit(part, loader())


def validated(part, images, tmp_path) -> dict[str, float]:
    data = [{"image": x, "index": i} for i, x in enumerate(images)]
    (logged,) = quiet_trainer(tmp_path).validate(part, DataLoader(data), verbose=False)
    return logged


def test_the_autoencoder_learns_and_its_latents_are_standardised(make_backbone, tmp_path):
    part = autoencoder(make_backbone, warmup_steps=1, momentum=0.2)
    x = blocks(1, seed=1)
    before = validated(part, x, tmp_path)
    fit(part, 40, tmp_path)
    after = validated(part, x, tmp_path)
    assert after["val/mse"] < 0.8 * before["val/mse"]
    assert after["val/psnr"] > before["val/psnr"]
    latents = part.latents.encode(torch.rand(4, 3, 32, 32))
    assert latents.shape == (4, 4, 4, 4)
    assert 0.2 < latents.std() < 5


def test_the_decoder_alone_is_trained_on_with_a_perceptual_and_an_adversarial_loss(tmp_path):
    save_model(small_autoencoder((8, 16)), tmp_path / "first")
    latents = small_autoencoder(weights=str(tmp_path / "first"))
    loss = DecoderLoss(perceptual="st-alex", adversarial_weight=0.1, width=8)
    part = AutoencoderTraining(latents, loss=loss, decoder_only=True, warmup_steps=1)
    before = {name: p.clone() for name, p in part.named_parameters()}
    x = torch.rand(1, 3, 32, 32)
    latent = latents.encode(x)
    quiet_trainer(tmp_path, max_steps=3, gradient_clip_val=1.0).fit(part, loader())
    changed = {n for n, p in part.named_parameters() if not torch.equal(p, before[n])}
    assert {name.partition(".")[0] for name in changed} == {"latents", "loss"}
    assert all(n.startswith(("latents.vae.decoder.", "loss.", "latents.vae.post")) for n in changed)
    assert torch.equal(latents.encode(x), latent)


def test_the_autoencoder_is_validated_by_its_round_trip(make_backbone, tmp_path):
    part = autoencoder(make_backbone).eval()
    images = [*blocks(2), blocks(1)[0][:, :17, :31]]
    with torch.no_grad():
        mse = [(part.latents.round_trip(x[None]) - x).square().mean() for x in images]
    logged = validated(part, images, tmp_path)
    assert logged["val/mse"] == pytest.approx(float(sum(mse)) / 3, rel=1e-5)
    psnr = [-10 * float(m.log10()) for m in mse]
    assert logged["val/psnr"] == pytest.approx(sum(psnr) / 3, rel=1e-5)


def test_the_decoder_alone_may_go_on(make_backbone, tmp_path):
    first = save_model(autoencoder(make_backbone).product, tmp_path / "first")
    latents = small_autoencoder(weights=str(first))
    part = AutoencoderTraining(latents, decoder_only=True, warmup_steps=1)
    before = {k: v.clone() for k, v in part.state_dict().items()}
    fit(part, 2, tmp_path)
    moved = {k for k, v in part.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all("vae.decoder." in key or "vae.post_quant_conv." in key for key in moved)
    with pytest.raises(ValueError, match="needs trained weights"):
        autoencoder(make_backbone, decoder_only=True)


def test_the_backbone_trains_unet_and_text_encoder_only(make_backbone, tmp_path):
    part = text_to_image(make_backbone, lr=1e-2, warmup_steps=1)
    before = {k: v.clone() for k, v in part.state_dict().items()}
    fit(part, 3, tmp_path)
    moved = {k for k, v in part.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(k.startswith("backbone.latents.") for k in moved)
    assert any(k.startswith("backbone.text_encoder.") for k in moved)
    assert any(k.startswith("backbone.unet.") for k in moved)


def test_text_to_image_is_validated_on_the_same_noise_every_time(make_backbone, tmp_path):
    part = text_to_image(make_backbone, validation_levels=3, lr=1e-2, warmup_steps=1)
    before = validated(part, blocks(2), tmp_path)["val/v_loss"]
    assert validated(part, blocks(2), tmp_path)["val/v_loss"] == before
    singles = [validated(part, blocks(2)[:1], tmp_path)["val/v_loss"], before]
    assert singles[0] != singles[1]
    fit(part, 20, tmp_path)
    assert validated(part, blocks(2), tmp_path)["val/v_loss"] < before


def test_a_dropped_caption_is_the_empty_one(make_backbone):
    part = text_to_image(make_backbone, caption_drop=1.0)
    part.log = lambda *_, **__: None
    told = []
    embed = part.backbone.embed_text
    part.backbone.embed_text = lambda texts: told.extend(texts) or embed(texts)
    part.training_step({"image": blocks(2)}, 0)
    assert told == ["", ""]


def test_what_pretraining_writes_the_small_backbone_loads(make_backbone, tmp_path):
    torch.manual_seed(7)
    first = autoencoder(make_backbone)
    with torch.no_grad():
        first.latents.scale.fill_(3.0)
    written = str(save_model(first.product, tmp_path / "autoencoder"))
    backbone = make_backbone(latents=small_autoencoder(weights=written))
    assert (backbone.latents.scale == 3).all()
    second = TextToImageTraining(backbone, captioner=PaletteCaptioner())
    with torch.no_grad():
        second.backbone.unet.conv_in.weight.fill_(0.5)
    loaded = small_backbone(weights=str(save_model(second.product, tmp_path / "backbone")))
    assert all(torch.equal(v, backbone.state_dict()[k]) for k, v in loaded.state_dict().items())
    # Neither file is the other.
    with pytest.raises(ValueError, match="do not fit"):
        make_backbone(weights=written)
