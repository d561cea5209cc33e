from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torchvision.transforms import v2

from datamodules.image_sets import Folder, Item, Source
from datamodules.module import ImageDataModule


class ProcessOf:
    """What the loaders ask a Trainer for."""

    lightning_module = None

    def __init__(self, rank: int, world_size: int) -> None:
        self.global_rank = rank
        self.world_size = world_size


def in_process(datamodule: ImageDataModule, rank: int, world_size: int) -> ImageDataModule:
    datamodule.trainer = ProcessOf(rank, world_size)  # type: ignore[assignment]
    return datamodule


@pytest.fixture
def make(tmp_path, save_image):
    """A datamodule of 7 training, 2 validation and 5 test images, two of them taller."""
    for i in range(7):
        save_image(f"train/{i}.png", 20, 24)
    for i in range(2):
        save_image(f"val/{i}.png")
    for i in range(5):
        save_image(f"test/{i}.png", 30 if i in (1, 4) else 20, 24, value=i)

    def build(**arguments):
        defaults = {split: Folder(split) for split in ("train", "val", "test")}
        return ImageDataModule(
            "tiny",
            **{
                "root": str(tmp_path),
                "train_transform": v2.RandomCrop(16),
                **defaults,
                **arguments,
            },
        )

    return build


@pytest.mark.parametrize(
    ("argument", "value", "least"),
    [
        ("batch_size", 0, 1),
        ("eval_batch_size", -1, 1),
        ("num_workers", -1, 0),
        ("samples_per_epoch", 0, 1),
    ],
)
def test_numbers_out_of_range_are_refused(make, argument, value, least):
    with pytest.raises(ValueError, match=f"{argument} must be at least {least}, got {value}"):
        make(**{argument: value})


def test_training_batches(make):
    loader = make(batch_size=3).train_dataloader()
    batches = list(loader)
    assert [batch["image"].shape for batch in batches] == [(3, 3, 16, 16)] * 2
    assert batches[0].keys() == {"image", "index", "name"}


def test_a_set_smaller_than_the_batch_still_trains(make):
    (batch,) = make(batch_size=100).train_dataloader()
    assert sorted(batch["name"]) == [f"{i}.png" for i in range(7)]


def test_samples_per_epoch_are_shared_by_the_processes(make):
    for world_size in (1, 2):
        datamodule = in_process(make(batch_size=4, samples_per_epoch=40), 0, world_size)
        assert len(datamodule.train_dataloader()) == 10 // world_size


def test_processes_train_on_different_images(make):
    drawn = [
        [name for batch in in_process(make(), rank, 3).train_dataloader() for name in batch["name"]]
        for rank in range(3)
    ]
    assert [len(names) for names in drawn] == [2, 2, 2]
    assert len({name for names in drawn for name in names}) == 6


def test_the_run_seed_decides_the_order(make, monkeypatch):
    def order(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        return list(make(samples_per_epoch=50).train_dataloader().sampler)

    assert order("3") == order("3") != order("4")


def test_tests_are_at_full_resolution_in_order_by_default(make):
    batches = list(make().test_dataloader())
    assert [batch["index"].tolist() for batch in batches] == [[0], [1], [2], [3], [4]]
    assert [tuple(batch["image"].shape[2:]) for batch in batches] == [
        (20, 24),
        (30, 24),
        (20, 24),
        (20, 24),
        (30, 24),
    ]


def test_test_batches_hold_images_of_one_size(make):
    batches = list(make(eval_batch_size=2).test_dataloader())
    assert [batch["index"].tolist() for batch in batches] == [[0, 2], [3], [1, 4]]
    assert [tuple(batch["image"].shape) for batch in batches] == [
        (2, 3, 20, 24),
        (1, 3, 20, 24),
        (2, 3, 30, 24),
    ]


def test_preprocessing_to_one_size_fills_the_test_batches(make):
    datamodule = make(eval_batch_size=5, eval_transform=v2.Resize((8, 8)))
    (batch,) = datamodule.test_dataloader()
    assert batch["image"].shape == (5, 3, 8, 8)
    assert batch["index"].tolist() == [0, 1, 2, 3, 4]
    assert (batch["image"][:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_each_image_is_tested_by_one_process(make, world_size):
    tested = []
    for rank in range(world_size):
        loader = in_process(make(eval_batch_size=2), rank, world_size).test_dataloader()
        tested += [index for batch in loader for index in batch["index"].tolist()]
    assert sorted(tested) == [0, 1, 2, 3, 4]


def test_images_that_the_tested_module_calls_measured_are_left_out(make):
    datamodule = in_process(make(), 0, 1)
    datamodule.trainer.lightning_module = SimpleNamespace(measured={1, 3})
    tested = [index for batch in datamodule.test_dataloader() for index in batch["index"].tolist()]
    assert tested == [0, 2, 4]


def test_every_process_has_something_to_validate(make):
    validated = [
        [batch["index"].item() for batch in in_process(make(), rank, 5).val_dataloader()]
        for rank in range(5)
    ]
    assert validated == [[0], [1], [0], [1], [0]]


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_fewer_test_images_than_processes_stop_the_run_at_once(make, stage):
    with pytest.raises(ValueError, match="'tiny' has 5 test images for 6 processes"):
        in_process(make(), 5, 6).setup(stage)


def test_fewer_training_images_than_processes_stop_the_run_at_once(make):
    with pytest.raises(ValueError, match="7 train images for 8 processes"):
        in_process(make(test=None), 0, 8).setup("fit")
    in_process(make(test=None, samples_per_epoch=8), 0, 8).setup("fit")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_fit_looks_for_all_images_before_it_starts(make, split):
    datamodule = make(**{split: Folder("gone")})
    with pytest.raises(ValueError, match=f"'tiny', {split} images: no such folder: .*/gone"):
        datamodule.setup("fit")


def test_a_test_needs_no_training_images(make):
    make(train=Folder("gone"), val=None).setup("test")


@pytest.mark.parametrize(
    ("stage", "split"), [("fit", "train"), ("validate", "val"), ("test", "test")]
)
def test_a_stage_without_images_is_refused(make, stage, split):
    with pytest.raises(ValueError, match=f"datamodule 'tiny' has no {split} images"):
        make(**{split: None}).setup(stage)


def test_validation_and_test_may_be_missing_in_a_fit(make):
    datamodule = make(val=None, test=None)
    datamodule.setup("fit")
    assert datamodule.val_dataloader() == []
    assert datamodule.test_dataloader() == []


def test_an_unknown_split_lists_the_choices(make):
    with pytest.raises(ValueError, match="unknown split 'dev', choose from train, val, test"):
        make().dataset("dev")


def test_only_training_images_are_cached_and_only_they_may_be_skipped(make, tmp_path):
    datamodule = make(cache=True)
    for split in ("train", "test"):
        dataset = datamodule.dataset(split)
        before = dataset[0]["image"]
        (tmp_path / split / "0.png").write_bytes(b"")
        if split == "train":
            assert dataset[0]["image"].shape == before.shape
        else:
            with pytest.raises(ValueError, match=r"test/0\.png"):
                dataset[0]


@pytest.mark.filterwarnings("ignore:cannot read image")
def test_skipped_images_are_counted(make, tmp_path):
    datamodule = make(batch_size=1)
    assert datamodule.num_skipped == 0
    (tmp_path / "train" / "0.png").write_bytes(b"")
    assert len(list(datamodule.train_dataloader())) == 7
    assert datamodule.num_skipped == 1


class Written(Source):
    """Writes its image when it is prepared."""

    def __init__(self, save_image) -> None:
        self.save_image = save_image
        self.prepared = 0

    def prepare(self, root):
        self.prepared += 1
        self.save_image("new.png", 32, 32)

    def items(self, root):
        if not self.prepared:
            raise ValueError("not there")
        return [Item("new.png", (root / "new.png",))]


class Recorder(pl.LightningModule):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[list[str]]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch["name"])
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch["name"])

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch["name"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_fits_and_tests(make, save_image):
    source = Written(save_image)
    datamodule = make(test=source, batch_size=7)
    model = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=datamodule)
    trainer.test(model, datamodule=datamodule, verbose=False)
    assert source.prepared
    assert model.seen["val"] == [["0.png"], ["1.png"]] * 3
    assert model.seen["test"] == [["new.png"]]
    epochs = model.seen["train"]
    assert [sorted(names) for names in epochs] == [[f"{i}.png" for i in range(7)]] * 3
    assert len({tuple(names) for names in epochs}) > 1  # shuffled anew in each epoch
