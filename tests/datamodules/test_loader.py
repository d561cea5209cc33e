import pytest
from torchvision.transforms import v2

from datamodules.dataset import ImageDataset
from datamodules.image_sets import Item
from datamodules.loader import TrainingLoader
from datamodules.sampler import ShardedRandomSampler


@pytest.fixture
def make(save_image):
    items = [Item(f"{i}", (save_image(f"{i}.png", value=10 * i),)) for i in range(7)]

    def build(num_workers=0, batch_size=2, rank=0, world_size=1):
        dataset = ImageDataset(items, v2.RandomCrop(8), training=True)
        sampler = ShardedRandomSampler(len(items), 14, rank=rank, world_size=world_size)
        return TrainingLoader(dataset, sampler, batch_size=batch_size, num_workers=num_workers)

    return build


def names(batches):
    return [batch["name"] for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_another_loader_goes_on_where_this_one_is(make, num_workers):
    loader = make(num_workers)
    loader.sampler.set_epoch(2)
    whole = names(loader)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    assert state == {"epoch": 2, "draws": 6}
    other = make(num_workers)
    other.load_state_dict(state)
    assert len(other) == 7  # of the whole epoch, which is what Lightning counts by
    assert names(other) == whole[3:]
    assert names(other) == whole  # the next pass is whole


def test_after_the_last_batch_comes_the_next_epoch(make):
    loader = make(batch_size=4)
    assert len(names(loader)) == 3  # and two draws that make no batch
    other = make(batch_size=4)
    other.load_state_dict(loader.state_dict())
    loader.sampler.set_epoch(1)
    assert names(other) == names(loader)


def test_more_processes_go_on_where_one_was(make):
    loader = make(batch_size=2)
    whole = names(loader)
    others = [make(batch_size=1, rank=rank, world_size=2) for rank in range(2)]
    for other in others:
        other.load_state_dict({"epoch": 0, "draws": 6})
    steps = [[*a, *b] for a, b in zip(*map(names, others), strict=True)]
    assert steps == whole[3:]
