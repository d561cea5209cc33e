"""Memory and time per decoded image do not grow with the number of images evaluated."""

import gc

import torch
from torch.utils.data import DataLoader

from callbacks.evaluation import Evaluation
from callbacks.reconstructions import Reconstructions
from diffcodec.base.classical import PillowCodec
from tests.trainers import measure, quiet_trainer

SIDE = 272
COUNT = 12


class Watched(PillowCodec):
    """Counts what is alive and what is computed before each image."""

    def __init__(self) -> None:
        super().__init__("JPEG", quality=50)
        self.alive: list[int] = []
        self.hashed = 0

    def compress(self, x, point=None):
        gc.collect()
        tensors = (o for o in gc.get_objects() if isinstance(o, torch.Tensor))
        self.alive.append(sum(t.numel() >= 3 * SIDE * SIDE for t in tensors))
        return super().compress(x, point)

    def decoding_state(self):
        self.hashed += 1
        return super().decoding_state()


def test_nothing_of_an_image_is_kept(tmp_path, photo):
    images = [photo[0, :, i : i + SIDE, i : i + SIDE].clone() for i in range(COUNT)]
    samples = [{"image": x, "index": i, "name": f"{i}.png"} for i, x in enumerate(images)]
    codec = Watched()
    evaluation = Evaluation(metrics=["psnr-rgb", "ms-ssim-rgb", "fd_random"])
    trainer = quiet_trainer(
        tmp_path,
        use_distributed_sampler=False,
        callbacks=[evaluation, Reconstructions(str(tmp_path), max_images=2)],
    )
    measuring = measure(trainer, codec, DataLoader(samples, batch_size=1))
    assert len(measuring.results[0].rows) == COUNT
    # From the third image on, when all that lasts has been made.
    assert len(set(codec.alive[2:])) == 1
    assert codec.hashed <= 2  # not once per image
