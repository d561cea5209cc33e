import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.evaluation import Evaluation, reduce_rows
from callbacks.image_metrics import psnr
from diffcodec.codec import Codec, to_uint8


class Grey(Codec):
    """Sends one grey level; its pictures cannot have more than 16 of them."""

    def encode(self, x: Tensor) -> list[list[bytes]]:
        return [[bytes([int(image.mean() * 15)])] for image in x]

    def decode(self, payloads, height, width, seeds) -> Tensor:
        levels = torch.tensor([payload[0][0] / 15 for payload in payloads])
        return levels.reshape(-1, 1, 1, 1).expand(-1, 3, height, width)

    def ceiling(self, x: Tensor) -> Tensor:
        return (x * 15).round() / 15


def evaluate(codec: Codec, images: Tensor) -> Evaluation:
    dataset = [{"index": i, "name": f"{i}.png", "image": x} for i, x in enumerate(images)]
    evaluation = Evaluation(lpips=None, inception=False, random_features=False)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[evaluation],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.test(codec, DataLoader(dataset, batch_size=2), verbose=False)
    return evaluation


def test_the_ceiling_is_the_mean_over_the_images_and_no_metric_of_the_point():
    images = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    codec = Grey()
    result = evaluate(codec, images).result
    assert result is not None
    pairs = zip(to_uint8(images), to_uint8(codec.ceiling(images)), strict=True)
    assert result.ceiling == {"psnr": pytest.approx(sum(psnr(*pair) for pair in pairs) / 3)}
    assert result.ceiling["psnr"] > result.metrics["psnr"]
    assert not any("ceiling" in name for name in result.metrics)


def test_a_codec_that_only_its_rate_limits_has_no_ceiling():
    codec = Grey()
    codec.ceiling = lambda x: None
    result = evaluate(codec, torch.rand(1, 3, 32, 32)).result
    assert result is not None
    assert result.ceiling == {}
    assert "ceiling_psnr" not in result.rows[0]


def test_a_metric_that_one_image_lacks_is_left_out():
    rows = [{"bpp": 1.0, "psnr": 30.0, "ms_ssim": None}, {"bpp": 2.0, "psnr": 31.0, "ms_ssim": 0.5}]
    assert reduce_rows(rows) == {"bpp": 1.5, "psnr": 30.5}
