import multiprocessing
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from datamodules.dataset import ImageDataset, Skipped, collate
from datamodules.files import ImageReadError
from datamodules.image_sets import Item
from datamodules.sampler import Draw


@pytest.fixture
def items(save_image):
    return [Item(f"{i}.png", (save_image(f"{i}.png", 8, 10, value=i),)) for i in range(6)]


def break_file(item):
    path = item.paths[0]
    path.write_bytes(path.read_bytes()[:40])


def read_all(loader):
    iterator = iter(loader)
    try:
        return list(iterator)
    finally:
        # After an error, garbage collection would wait five seconds for each worker.
        if loader.num_workers:
            iterator._shutdown_workers()


def first_red(sample):
    return round(sample["image"][0, 0, 0].item() * 255)


def test_a_sample_is_the_picture_in_0_1_with_its_index_and_name(tmp_path):
    values = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 15
    Image.fromarray(values).save(tmp_path / "a.png")
    sample = ImageDataset([Item("x/a.png", (tmp_path / "a.png",))])[0]
    assert sample.keys() == {"image", "index", "name"}
    assert (sample["index"], sample["name"]) == (0, "x/a.png")
    assert sample["image"].dtype == torch.float32
    expected = torch.from_numpy(values).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(sample["image"], expected, rtol=0, atol=0)


def test_a_caption_is_passed_on(save_image):
    dataset = ImageDataset([Item("a", (save_image("a.png"),), "A cat.")])
    assert dataset[0]["caption"] == "A cat."


def test_the_transform_is_applied_to_the_picture(items):
    dataset = ImageDataset(items, v2.CenterCrop((4, 2)))
    assert dataset[3]["image"].shape == (3, 4, 2)
    assert first_red(dataset[3]) == 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (5, 1), (63, 65)])
def test_crops_larger_than_the_image_continue_it(save_image, height, width):
    crop = v2.RandomCrop(64, pad_if_needed=True, padding_mode="symmetric")
    item = Item("a", (save_image("a.png", height, width, value=90),))
    image = ImageDataset([item], crop, training=True)[0]["image"]
    assert image.shape == (3, 64, 64)
    assert image.unique().tolist() == [np.float32(90 / 255)]


def test_a_broken_file_names_itself_in_evaluation(items):
    break_file(items[2])
    dataset = ImageDataset(items)
    with pytest.raises(ImageReadError, match=r"2\.png"):
        dataset[2]
    assert first_red(dataset[3]) == 3
    assert dataset.num_skipped == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_file_stops_the_loader_of_an_evaluation(items, num_workers):
    break_file(items[2])
    loader = DataLoader(ImageDataset(items), num_workers=num_workers)
    with pytest.raises(ImageReadError, match=r"2\.png"):
        read_all(loader)


def test_broken_files_are_skipped_in_training_with_one_warning(items):
    for item in items[2:4]:
        break_file(item)
    items[0].paths[0].unlink()
    dataset = ImageDataset(items, training=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = [dataset[index] for index in range(6)]
    assert [sample["index"] for sample in samples] == [1, 1, 4, 4, 4, 5]
    assert [first_red(sample) for sample in samples] == [1, 1, 4, 4, 4, 5]
    assert dataset.num_skipped == 4  # 0, 2, then 3 on the way from 2 and once by itself
    assert [str(warning.message).split(":")[0] for warning in caught] == [
        f"cannot read image {items[0].paths[0]}"
    ]


def test_the_image_after_the_last_is_the_first(items):
    break_file(items[5])
    with pytest.warns(UserWarning, match=r"5\.png.* skipping this"):
        assert ImageDataset(items, training=True)[5]["index"] == 0


def test_training_stops_where_no_image_can_be_read(items):
    for item in items:
        break_file(item)
    with (
        pytest.warns(UserWarning, match="skipping this"),
        pytest.raises(ValueError, match="none of the 6 training images can be read"),
    ):
        ImageDataset(items, training=True)[0]


# Starting a process afresh takes seconds: one is enough to see that it counts for all.
@pytest.mark.parametrize(("start_method", "num_workers"), [("fork", 2), ("spawn", 1)])
@pytest.mark.filterwarnings("ignore")
def test_what_the_loader_workers_skip_is_counted(items, start_method, num_workers):
    for item in items[::2]:
        break_file(item)
    dataset = ImageDataset(items, training=True)
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        multiprocessing_context=multiprocessing.get_context(start_method),
    )
    dataset[0]
    assert [batch["index"].item() for batch in loader] == [1, 1, 3, 3, 5, 5]
    assert dataset.num_skipped == 1 + 3


def clip(save_image):
    return Item("clip", tuple(save_image(f"im{i}.png", value=i) for i in range(1, 8)))


def test_training_draws_frames_of_a_clip_at_random(save_image):
    dataset = ImageDataset([clip(save_image)], training=True, cache=True)
    torch.manual_seed(0)
    drawn = [first_red(dataset[0]) for _ in range(100)]
    assert set(drawn) == set(range(1, 8))
    torch.manual_seed(0)
    assert [first_red(dataset[0]) for _ in range(100)] == drawn


def test_evaluation_takes_the_first_frame_of_a_clip(save_image):
    dataset = ImageDataset([clip(save_image)])
    assert {first_red(dataset[0]) for _ in range(20)} == {1}


def test_cached_images_are_read_once_and_transformed_each_time(items):
    dataset = ImageDataset(items, v2.RandomCrop(2), training=True, cache=True)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(items[0].paths[0])
    first = dataset[0]["image"]
    items[0].paths[0].unlink()
    assert any(not torch.equal(dataset[0]["image"], first) for _ in range(20))
    assert dataset.num_skipped == 0


def test_without_a_cache_the_file_is_read_each_time(items, save_image):
    dataset = ImageDataset(items)
    assert first_red(dataset[0]) == 0
    save_image("0.png", value=200)
    assert first_red(dataset[0]) == 200


def resize_to_5(image, seen):
    seen.append(image.size)
    return image.resize((5, 5 * image.height // image.width))


def test_sizes_are_those_of_the_samples(save_image):
    shapes = [(10, 20), (40, 20), (10, 20)]
    items = [Item(f"{i}", (save_image(f"{i}.png", *hw),)) for i, hw in enumerate(shapes)]
    assert ImageDataset(items).sizes == shapes
    seen: list[tuple[int, int]] = []
    dataset = ImageDataset(items, partial(resize_to_5, seen=seen))
    assert dataset.sizes == dataset.sizes == [(2, 5), (10, 5), (2, 5)]
    assert sorted(seen) == [(20, 10), (20, 40)]  # one blank image of each size
    assert dataset.sizes == [tuple(sample["image"].shape[1:]) for sample in dataset]


def test_the_size_of_a_broken_file_names_it(items):
    items[1].paths[0].write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"1\.png"):
        _ = ImageDataset(items).sizes


def test_samples_of_one_size_are_stacked(items):
    dataset = ImageDataset([Item("a", items[3].paths, "cap"), Item("b", items[5].paths, "tion")])
    batch = collate([dataset[1], dataset[0]])
    assert batch["image"].shape == (2, 3, 8, 10)
    assert batch["index"].tolist() == [1, 0]
    assert batch["name"] == ["b", "a"]
    assert batch["caption"] == ["tion", "cap"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_of_several_sizes_in_a_batch_are_named(save_image, num_workers):
    items = [Item("a", (save_image("a.png", 5, 7),)), Item("b", (save_image("b.png", 5, 9),))]
    loader = DataLoader(
        ImageDataset(items, training=True),
        batch_size=2,
        collate_fn=collate,
        num_workers=num_workers,
    )
    with pytest.raises(ValueError, match=r"a 5x7, b 5x9; add a crop of fixed size"):
        read_all(loader)


def test_broken_images_of_an_evaluation_can_be_left_out_by_name(items):
    break_file(items[2])
    dataset = ImageDataset(items, skip_broken=True)
    skipped = dataset[2]
    assert isinstance(skipped, Skipped)
    assert (skipped.index, skipped.name) == (2, items[2].name)
    assert "2.png" in skipped.reason
    batch = collate([dataset[1], skipped])
    assert batch["index"].tolist() == [1]
    assert batch["skipped"] == [skipped]
    alone = collate([skipped])
    assert alone["image"].shape[0] == len(alone["index"]) == len(alone["name"]) == 0
    assert "skipped" not in collate([dataset[1]])


def test_sizes_of_broken_images_that_are_left_out_are_unknown(items):
    items[1].paths[0].write_bytes(b"no image")
    dataset = ImageDataset(items, v2.CenterCrop(5), skip_broken=True)
    assert dataset.sizes[:2] == [(5, 5), (0, 0)]


def test_a_draw_decides_what_is_random_and_leaves_the_generator_alone(items):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(items[0].paths[0])
    dataset = ImageDataset(items, v2.RandomCrop(8), training=True)
    before = torch.get_rng_state()
    images = [dataset[Draw(0, seed)]["image"] for seed in (5, 6, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
