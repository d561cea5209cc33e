import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel

from diffcodec.latent.pixel import pixel_backbone
from tests.latent.tiny import save_pixel_model


def test_a_folder_is_a_backbone_whose_latents_are_pixels(tmp_path):
    backbone = pixel_backbone(str(save_pixel_model(tmp_path)))
    assert (backbone.latents.stride, backbone.latents.channels, backbone.stride) == (1, 3, 2)
    assert backbone.prediction == "eps"
    torch.testing.assert_close(
        backbone.alphas_cumprod, DDPMScheduler().alphas_cumprod.double(), rtol=1e-6, atol=0
    )
    x = torch.rand(1, 3, 8, 8)
    z = backbone.latents.encode(x)
    assert z.min() < -0.5
    torch.testing.assert_close(backbone.latents.decode(z), x)


@torch.no_grad()
def test_the_network_is_told_the_timestep_and_the_class(tmp_path):
    x, time = torch.randn(2, 3, 8, 8), torch.tensor(300)
    folder = save_pixel_model(tmp_path, num_class_embeds=3)
    unet = UNet2DModel.from_pretrained(folder / "unet")
    backbone = pixel_backbone(str(folder), class_label=2)
    out = backbone.network(x, time, text=backbone.null_text())
    torch.testing.assert_close(out, unet(x, time, class_labels=torch.tensor([2, 2])).sample)


def test_a_learned_variance_is_left_out(tmp_path):
    backbone = pixel_backbone(str(save_pixel_model(tmp_path, out_channels=6)))
    out = backbone.network(torch.randn(1, 3, 8, 8), torch.tensor(3), text=backbone.null_text())
    assert out.shape == (1, 3, 8, 8)


def test_what_is_no_discrete_model_is_refused(tmp_path):
    folder = save_pixel_model(tmp_path)
    EDMEulerScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(ValueError, match=r"has no timesteps \(EDMEulerScheduler\)"):
        pixel_backbone(str(folder))
    with pytest.raises(ValueError, match="could not load an unconditional U-Net"):
        pixel_backbone(str(tmp_path / "scheduler"))


def test_there_is_no_text(tmp_path):
    with pytest.raises(ValueError, match="takes no text"):
        pixel_backbone(str(save_pixel_model(tmp_path))).embed_text(["a dog"])
