import math

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import diffcodec.metrics
from callbacks.evaluation import Evaluation
from diffcodec.codec import Codec, Decoded, to_uint8
from diffcodec.measuring import MeasuringPass
from diffcodec.metrics.psnr import psnr
from diffcodec.points import CEILING, combine
from tests.trainers import measure, quiet_trainer


class Grey(Codec):
    """Sends one grey level; its pictures cannot have more than 16 of them."""

    def encode(self, x: Tensor, point) -> list[list[bytes]]:
        return [[bytes([int(image.mean() * 15)])] for image in x]

    def decode(self, payloads, height, width, seeds, point) -> Decoded:
        levels = torch.tensor([payload[0][0] / 15 for payload in payloads])
        return Decoded(levels.reshape(-1, 1, 1, 1).expand(-1, 3, height, width))

    def ceiling(self, x: Tensor) -> Tensor:
        return (x * 15).round() / 15


def evaluate(codec: Codec, images: Tensor, *, ceiling: bool = True) -> MeasuringPass:
    dataset = [{"index": i, "name": f"{i}.png", "image": x} for i, x in enumerate(images)]
    evaluation = Evaluation(metrics=["psnr-rgb", "ms-ssim-rgb", "fd_random", "decoding_time"])
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[evaluation],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    return measure(trainer, codec, DataLoader(dataset, batch_size=2), ceiling=ceiling)


def test_the_ceiling_is_measured_like_a_point_but_has_no_rate_and_no_time():
    images = torch.rand(3, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    codec = Grey()
    point, ceiling = evaluate(codec, images).results
    assert ceiling.point is CEILING
    pairs = zip(to_uint8(images), to_uint8(codec.ceiling(images)), strict=True)
    expected = sum(psnr(*pair) for pair in pairs) / 3
    assert ceiling.metrics["psnr-rgb"] == pytest.approx(expected)
    assert set(ceiling.metrics) == {"psnr-rgb", "ms-ssim-rgb", "fd_random"}
    assert set(point.metrics) == {
        *(*ceiling.metrics, "bpp", "bpp-payload", "decoding_time"),
    }
    assert ceiling.metrics["psnr-rgb"] > point.metrics["psnr-rgb"]
    assert ceiling.num_patches == point.num_patches == 3
    assert [row["index"] for row in ceiling.rows] == [0, 1, 2]
    assert {row["bpp"] for row in ceiling.rows} == {None}


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_ceiling_or_where_none_is_asked_for_there_is_none(asked):
    codec = Grey()
    if asked:
        codec.ceiling = lambda x: None
    (result,) = evaluate(codec, torch.rand(1, 3, 32, 32), ceiling=asked).results
    assert result.point == codec.points[0]


def test_points_of_one_pass_have_rows_and_distances_of_their_own():
    class Bright(Grey):
        def __init__(self):
            super().__init__(combine(decoding={"light": [0.0, 0.3]}))

        def decode(self, payloads, height, width, seeds, point):
            decoded = super().decode(payloads, height, width, seeds, point)
            return Decoded(decoded.x_hat + point.decoding["light"])

    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    first, second = evaluate(Bright(), images, ceiling=False).results
    assert [r.point.decoding["light"] for r in (first, second)] == [0.0, 0.3]
    assert {row["point"] for row in first.rows} == {"light=0"}
    assert first.metrics["psnr-rgb"] > second.metrics["psnr-rgb"]
    assert first.metrics["bpp"] == second.metrics["bpp"]
    assert first.metrics["fd_random"] != second.metrics["fd_random"]


def test_a_metric_that_one_image_lacks_is_left_out():
    small, large = torch.rand(3, 100, 100), torch.rand(3, 200, 200)
    codec = Grey()
    dataset = [{"index": i, "name": "", "image": x} for i, x in enumerate((small, large))]
    evaluation = Evaluation(metrics=["psnr-rgb", "ms-ssim-rgb"])
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[evaluation],
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False),
    )
    (result,) = measure(trainer, codec, DataLoader(dataset, batch_size=1)).results
    assert [row["ms-ssim-rgb"] is None for row in result.rows] == [True, False]
    assert "ms-ssim-rgb" not in result.metrics
    assert result.metrics["psnr-rgb"] == pytest.approx(
        math.fsum(row["psnr-rgb"] for row in result.rows) / 2
    )


TOYS = '''
"""Counts words of a caption, and the share of words that are long."""

import torch

from diffcodec.metrics.metric import AnnotatedMetric


def words(caption, x_hat):
    found = caption.split()
    return torch.tensor([sum(len(word) > 3 for word in found), len(found)])


METRIC = AnnotatedMetric(
    "long-words",
    "Long words",
    kind="perception",
    better="higher",
    default=False,
    annotation="score_caption",
    option="captions=FILE",
    build=lambda weights: words,
    finish=lambda sums: float(sums[0] / sums[1]),
)
'''


@pytest.fixture
def long_words(tmp_path, monkeypatch):
    (tmp_path / "toy_long_words.py").write_text(TOYS)
    path = [*diffcodec.metrics.__path__, str(tmp_path)]
    monkeypatch.setattr(diffcodec.metrics, "__path__", path)


class Captioned(LightningDataModule):
    name = "captioned"

    def __init__(self, captions):
        super().__init__()
        self.annotations = {"score_caption"} if captions else set()
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.samples = [
            {"index": i, "name": f"{i}.png", "image": image, "score_caption": caption}
            for i, caption in enumerate(captions or ["", ""])
        ]

    def test_dataloader(self):
        return DataLoader(self.samples, batch_size=2)


def test_what_the_data_set_says_is_summed_over_the_images(tmp_path, long_words):
    evaluation = Evaluation(metrics=["psnr-rgb", "long-words"])
    trainer = quiet_trainer(tmp_path, callbacks=[evaluation])
    data = Captioned(["a house", "horses everywhere", "a"])
    (result,) = measure(trainer, Grey(), data).results
    assert [row["long-words"] for row in result.rows] == [0.5, 1.0, 0.0]
    assert result.metrics["long-words"] == 3 / 5  # not the mean of the images' shares


def test_what_the_data_set_does_not_say_is_asked_for_before_the_run(tmp_path, long_words):
    trainer = quiet_trainer(tmp_path, callbacks=[Evaluation(metrics=["long-words"])])
    with pytest.raises(
        ValueError, match=r"long-words needs data that datamodule 'captioned' .*captions="
    ):
        measure(trainer, Grey(), Captioned(None))


def test_one_perfect_and_one_small_image_remove_no_metric_without_a_word(caplog):
    images = [torch.zeros(3, 200, 200), torch.rand(3, 200, 200), torch.rand(3, 100, 100)]
    names = ["black.png", "photo.png", "small.png"]
    dataset = [
        {"index": i, "name": name, "image": image}
        for i, (name, image) in enumerate(zip(names, images, strict=True))
    ]
    evaluation = Evaluation(metrics=["psnr-rgb", "ms-ssim-rgb", "fd_random"])
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", callbacks=[evaluation], **quiet)
    for _ in range(2):
        measuring = measure(trainer, Grey(), DataLoader(dataset, batch_size=1))
    (result,) = measuring.results
    assert result.rows[0]["psnr-rgb"] == math.inf
    finite = [row["psnr-rgb"] for row in result.rows[1:]]
    assert result.metrics["psnr-rgb"] == pytest.approx(math.fsum(finite) / 2)
    assert result.infinite == {"psnr-rgb": ["black.png"]}
    assert result.left_out == {
        "ms-ssim-rgb": "not defined for small.png",
        "fd_random": "0 patches are too few",
    }
    told = [record.getMessage() for record in caplog.records]
    assert sorted(text for text in told if "left out" in text or "mean without" in text) == [
        "fd_random is left out: 0 patches are too few",
        "ms-ssim-rgb is left out: not defined for small.png",
        "psnr-rgb is a mean without black.png, where it is infinite",
    ]


def test_a_metric_that_is_infinite_everywhere_has_no_mean(caplog):
    (result,) = evaluate(Grey(), torch.zeros(2, 3, 200, 200), ceiling=False).results
    assert "psnr-rgb" not in result.metrics
    assert result.left_out["psnr-rgb"] == "infinite for all images"
    assert "psnr-rgb is left out: infinite for all images" in caplog.text
