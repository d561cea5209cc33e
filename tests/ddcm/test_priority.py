import pytest
import torch
from PIL import Image

from diffcodec.ddcm.priority import read_map, weights_of_latents


def test_a_map_is_the_picture_of_an_images_name(tmp_path):
    picture = Image.new("L", (5, 4), 51)
    picture.putpixel((3, 1), 255)
    picture.save(tmp_path / "kodim01.png")
    weights = read_map(tmp_path, "val/kodim01.jpg", (4, 5))
    assert weights.shape == (1, 1, 4, 5)
    assert weights[0, 0, 1, 3] == 1
    assert weights[0, 0, 0, 0].item() == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"priority map .*other\.png does not exist"):
        read_map(tmp_path, "other.png", (4, 5))
    with pytest.raises(ValueError, match=r"has \(4, 5\) pixels, the image has \(5, 4\)"):
        read_map(tmp_path, "kodim01.png", (5, 4))


def test_a_latent_has_the_mean_of_its_pixels():
    weights = torch.zeros(1, 1, 5, 8)
    weights[..., :4, 2:4] = 1.0
    weights[..., 4:, :4] = 3.0
    found = weights_of_latents(weights, 4, (3, 2))
    assert torch.equal(found[0, 0], torch.tensor([[0.5, 0.0], [3.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(weights_of_latents(weights, 1, (5, 8)), weights)
