from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

from datamodules.image_sets import Folder
from datamodules.module import ImageDataModule


@pytest.fixture(scope="session")
def crops(tmp_path_factory) -> Path:
    """Seven small photographs."""
    folder = tmp_path_factory.mktemp("crops")
    image = Image.fromarray(data.astronaut())
    for number in range(7):
        left, top = 60 * number, 40 * number
        image.crop((left, top, left + 90, top + 80)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def one_thread():
    """Sums in the same order, whatever the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_datamodule(crops):
    """Training in batches of two, three batches an epoch, in random crops; one image validates."""
    from torchvision.transforms import v2

    def make(**options) -> ImageDataModule:
        crop = v2.Compose([v2.RandomCrop(64), v2.RandomHorizontalFlip()])
        settings = {"root": str(crops), "batch_size": 2, "cache": True, "train_transform": crop}
        settings["eval_transform"] = v2.CenterCrop(64)
        sources = {"train": Folder(), "val": Folder(limit=1), "test": Folder()}
        return ImageDataModule("crops", **sources | settings | options)

    return make
