import pytest
import torch
from torch.utils.data import DataLoader

from diffcodec.bitstream import BitstreamError
from diffcodec.perco.palette import PaletteCaptioner
from diffcodec.perco.pretrain import Autoencoder, TextToImage
from tests.trainers import quiet_trainer


def autoencoder(make_backbone, **options) -> Autoencoder:
    return Autoencoder(make_backbone().latents, **options)


def text_to_image(make_backbone, **options) -> TextToImage:
    options = {"captioner": PaletteCaptioner(), "steps": 2, **options}
    return TextToImage(make_backbone(), **options)


def blocks(count, seed=0) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, scale_factor=8)


def fit(codec, steps, tmp_path) -> None:
    data = [{"image": x, "index": i, "name": f"{i}"} for i, x in enumerate(blocks(8))]
    quiet_trainer(tmp_path, max_steps=steps).fit(codec, DataLoader(data, batch_size=4))


def test_the_autoencoder_learns_and_its_latents_are_standardised(make_backbone, tmp_path):
    codec = autoencoder(make_backbone, warmup_steps=1, momentum=0.2)
    x = blocks(1, seed=1)
    before = (codec.decompress(codec.compress(x)) - x).square().mean()
    fit(codec, 40, tmp_path)
    assert (codec.decompress(codec.compress(x)) - x).square().mean() < 0.8 * before
    latents = codec.latents.encode(torch.rand(4, 3, 32, 32))
    assert latents.shape == (4, 4, 4, 4)
    assert 0.2 < latents.std() < 5


def test_the_decoder_alone_may_go_on(make_backbone, tmp_path):
    torch.save(autoencoder(make_backbone).trained_state(), tmp_path / "first.pt")
    codec = autoencoder(make_backbone, decoder_only=True, weights=str(tmp_path / "first.pt"))
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    fit(codec, 2, tmp_path)
    moved = {k for k, v in codec.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all("vae.decoder." in key or "vae.post_quant_conv." in key for key in moved)
    with pytest.raises(ValueError, match="goes on from weights"):
        autoencoder(make_backbone, decoder_only=True)


@pytest.mark.parametrize("size", [(8, 8), (33, 50)])
def test_the_autoencoders_stream_is_its_latent(make_backbone, size):
    codec = autoencoder(make_backbone).eval()
    x = torch.rand(2, 3, *size)
    streams = codec.compress(x)
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    assert codec.num_payload_bytes(streams[0]) == 4 * 4 * rows * columns
    assert codec.decompress(streams).shape == x.shape
    with pytest.raises(BitstreamError, match="are no latent"):
        codec.decode([[b"1234"]], *size, [0])


def test_hostile_latents_are_no_crash(make_backbone):
    codec = autoencoder(make_backbone).eval()
    with torch.no_grad():
        (payload,) = codec.encode(torch.rand(1, 3, 8, 8))[0]
        image = codec.decode([[b"\x00\x00\xc0\x7f" * 4]], 8, 8, [0])
    assert len(payload) == 16
    assert image.isfinite().all()


def test_the_backbone_trains_unet_and_text_encoder_only(make_backbone, tmp_path):
    codec = text_to_image(make_backbone, lr=1e-2, warmup_steps=1)
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    fit(codec, 3, tmp_path)
    moved = {k for k, v in codec.state_dict().items() if not torch.equal(v, before[k])}
    frozen = {k for k in moved if k.startswith("model.backbone.latents.")}
    assert not frozen
    assert any(k.startswith("model.backbone.text_encoder.") for k in moved)
    assert any(k.startswith("model.backbone.unet.") for k in moved)
    with torch.no_grad():
        null = codec.model.backbone.embed_text([""])
    torch.testing.assert_close(codec.model.null_text.data, null)


def test_text_makes_pictures(make_backbone):
    codec = text_to_image(make_backbone).eval()
    x = torch.rand(2, 3, 30, 40)
    streams = codec.compress(x)
    x_hat = codec.decompress(streams)
    assert x_hat.shape == x.shape
    assert torch.equal(codec.decompress(streams[1:]), x_hat[1:])


def test_what_pretraining_writes_the_small_backbone_loads(make_backbone, make_codec, tmp_path):
    torch.manual_seed(7)
    first = autoencoder(make_backbone)
    with torch.no_grad():
        first.latents.scale.fill_(3.0)
    torch.save(first.trained_state(), tmp_path / "autoencoder.pt")
    backbone = make_backbone(autoencoder_weights=str(tmp_path / "autoencoder.pt"))
    assert (backbone.latents.scale == 3).all()
    second = TextToImage(backbone, captioner=PaletteCaptioner())
    with torch.no_grad():
        second.model.backbone.unet.conv_in.weight.fill_(0.5)
    torch.save(second.trained_state(), tmp_path / "backbone.pt")
    loaded = make_backbone(weights=str(tmp_path / "backbone.pt"))
    assert all(torch.equal(v, backbone.state_dict()[k]) for k, v in loaded.state_dict().items())
    # Neither file is the other.
    with pytest.raises(ValueError, match="do not fit"):
        make_backbone(weights=str(tmp_path / "autoencoder.pt"))
