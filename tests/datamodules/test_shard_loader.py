import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules.dataset import SkipCounter
from datamodules.image_sets import Photos
from datamodules.module import ImageDataModule
from datamodules.shard_loader import ShardLoader, ShardSettings
from datamodules.shards import Shards

NUM_SHARDS, PER_SHARD = 6, 5
pytestmark = pytest.mark.filterwarnings("ignore:.*skipping this")


def picture(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (12, 10), (value, 0, 0)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Six shards of five images, of which two are broken."""
    for shard in range(NUM_SHARDS):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for number in range(PER_SHARD):
                data = picture(10 * shard + number)
                if (shard, number) in ((0, 1), (4, 4)):
                    data = data[:40]
                for suffix, content in ((".png", data), (".txt", f"{shard} {number}".encode())):
                    info = tarfile.TarInfo(f"{number}{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return tmp_path


def make(folder, *, num_workers=0, rank=0, world_size=1, **options):
    settings = {"batch_size": 2, "num_batches": 12, "buffer": 4, "captions": True, "seed": 3}
    return ShardLoader(
        ShardSettings(
            Shards(".").locations(folder),
            v2.RandomCrop(8),
            rank=rank,
            world_size=world_size,
            skipped=SkipCounter(),
            **settings | options,
        ),
        num_workers,
    )


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a["name"] == b["name"]
        assert a["caption"] == b["caption"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["index"], b["index"])


@pytest.mark.parametrize("num_workers", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_another_loader_goes_on_where_this_one_is(shards, num_workers):
    loader = make(shards, num_workers=num_workers)
    loader.set_epoch(2)
    whole = list(loader)
    assert len(whole) == len(loader) == 12
    for stop in (5,) if num_workers == 2 else range(1, 12):
        loader.set_epoch(2)
        batches = iter(loader)
        for _ in range(stop):
            next(batches)
        state = loader.state_dict()
        other = make(shards, num_workers=num_workers)
        other.load_state_dict(state)
        same(list(other), whole[stop:])
    same(list(other), whole)  # the next pass is whole


def test_pixels_are_those_of_the_name_and_caption(shards):
    for batch in make(shards):
        for image, name, caption in zip(
            *(batch[k] for k in ("image", "name", "caption")), strict=True
        ):
            shard, number = map(int, caption.split())
            assert name == f"{shard}.tar/{number}.png"
            assert torch.equal(image[0], torch.full((8, 8), (10 * shard + number) / 255))


def test_processes_have_shards_of_their_own_and_none_is_left_out(shards):
    read = []
    for rank in range(2):
        loader = make(shards, rank=rank, world_size=2, num_batches=6, buffer=2)
        read.append({name for batch in loader for name in batch["name"]})
    assert {name[0] for name in read[0]}.isdisjoint(name[0] for name in read[1])
    counts = Counter(n for b in make(shards, num_batches=60, buffer=3) for n in b["name"])
    assert len(counts) == NUM_SHARDS * PER_SHARD - 2
    assert max(counts.values()) <= min(counts.values()) + 6  # what takes the place of broken ones


def test_epochs_and_seeds_differ(shards):
    def order(epoch=0, **options):
        loader = make(shards, **options)
        loader.set_epoch(epoch)
        return [name for batch in loader for name in batch["name"]]

    assert order() == order()
    assert order() != order(epoch=1)
    assert order() != order(seed=4)


def test_broken_images_and_shards_are_counted(shards):
    path = shards / "2.tar"
    path.write_bytes(path.read_bytes()[:700])
    loader = make(shards, num_batches=40)
    with pytest.warns(UserWarning, match="skipping this and all further broken"):
        names = {name for batch in loader for name in batch["name"]}
    assert loader.settings.skipped.value > 3
    assert not any(name.startswith("2.tar") for name in names)


def test_where_there_is_nothing_to_read_it_ends(shards):
    for path in shards.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with (
        pytest.warns(UserWarning, match="skipping this"),
        pytest.raises(ValueError, match="no image with a caption in 6 shards"),
    ):
        list(make(shards))


def test_where_no_image_can_be_read_it_ends(shards, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    with (
        pytest.warns(UserWarning, match="skipping this"),
        pytest.raises(ValueError, match="none of 4 images of shards can be read"),
    ):
        list(make(shards))


def test_a_connection_that_breaks_is_taken_up_again(shards, monkeypatch):
    whole = list(make(shards))
    failures = []

    class Broken(io.BytesIO):
        """Gives every second reader no more than half of a shard."""

        def read(self, size=-1):
            if len(failures) % 2 == 0 and self.tell() > 5000:
                failures.append(self.tell())
                raise TimeoutError("no answer")
            return super().read(size)

    monkeypatch.setattr("datamodules.shards._opened", lambda path: Broken(Path(path).read_bytes()))
    waits: list[int] = []
    monkeypatch.setattr("datamodules.shard_loader.time.sleep", waits.append)
    same(list(make(shards)), whole)
    assert failures
    assert set(waits) <= {1, 2}


def test_a_shard_that_stays_away_stops_with_its_name(shards, monkeypatch):
    loader = make(shards)
    (shards / "3.tar").unlink()
    waits = []
    monkeypatch.setattr("datamodules.shard_loader.time.sleep", waits.append)
    with pytest.raises(ValueError, match=r"cannot open .*3\.tar"):
        list(loader)
    assert waits == [1, 2, 4]


def test_another_layout_begins_the_epoch_anew(shards):
    loader = make(shards)
    loader.set_epoch(1)
    batches = iter(loader)
    next(batches)
    other = make(shards, batch_size=1)
    with pytest.warns(UserWarning, match="the number of processes"):
        other.load_state_dict(loader.state_dict())
    fresh = make(shards, batch_size=1)
    fresh.set_epoch(1)
    same(list(other), list(fresh))


def test_a_datamodule_trains_on_them(shards):
    def build(**options):
        settings = {"root": str(shards), "samples_per_epoch": 9, "batch_size": 2}
        settings["train_transform"] = v2.RandomCrop(8)
        return ImageDataModule("shards", train=Shards(buffer=3), **settings | options)

    datamodule = build(test=Photos("test"))
    datamodule.setup("fit")
    assert [batch["image"].shape for batch in datamodule.train_dataloader()] == [(2, 3, 8, 8)] * 4
    with pytest.raises(ValueError, match="in shards, which are for training only"):
        datamodule.dataset("train")
    with pytest.raises(ValueError, match=r"pass datamodule\.samples_per_epoch=N"):
        build(samples_per_epoch=None)
    with pytest.raises(ValueError, match="test images cannot come from shards"):
        build(test=Shards())
    with pytest.raises(ValueError, match="6 shards cannot be split over 1 processes with 7 loader"):
        build(num_workers=7).setup("fit")
    with pytest.raises(ValueError, match="is less than one batch of 10 images"):
        build(batch_size=10).setup("fit")
    with pytest.raises(ValueError, match="train images: no shard"):
        build(root=str(shards / "nowhere")).setup("fit")
