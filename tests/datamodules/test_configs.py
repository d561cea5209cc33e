import json
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from PIL import Image
from skimage import data

from datamodules.image_sets import Photos
from datamodules.module import ImageDataModule

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "datamodule").glob("*.yaml"))
TRAINING_SETS = {"openimages", "openimages_center", "shards", "vimeo90k"}

Load = Callable[..., ImageDataModule]


@pytest.fixture
def load(tmp_path) -> Load:
    """Instantiates `datamodule=NAME` with datamodule.root=tmp_path and other overrides."""

    def build(name: str, *overrides: str) -> ImageDataModule:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = hydra.compose(
                "config", [f"datamodule={name}", f"datamodule.root={tmp_path}", *overrides]
            )
        return hydra.utils.instantiate(cfg.datamodule)

    return build


@pytest.fixture
def halves(tmp_path):
    """Saves a picture whose left half is black and right half white: shows how it was cropped."""

    def save(name: str, height: int, width: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((height, width), np.uint8)
        picture[:, width // 2 :] = 255
        Image.fromarray(picture).save(path)

    return save


def evaluated(datamodule: ImageDataModule) -> dict[str, tuple[int, ...]]:
    """Name -> height and width of each test image, in the order of evaluation."""
    datamodule.setup("test")
    return {
        name: tuple(batch["image"].shape[2:])
        for batch in datamodule.test_dataloader()
        for name in batch["name"]
    }


def test_all_sets_are_there():
    assert set(NAMES) == {
        "clic2020",
        "coco2017",
        "coco30k",
        "coco30k_512",
        "div2k",
        "folder",
        "imagenet",
        "kodak",
        "lsun_bedroom",
        "openimages",
        "openimages_center",
        "photos",
        "shards",
        "tecnick",
        "vimeo90k",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_named_as_its_file_and_begins_with_a_comment(load, name):
    assert load(name).name == name
    assert (CONFIGS / "datamodule" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", sorted(set(NAMES) - TRAINING_SETS - {"folder"}))
def test_sets_that_are_evaluated_train_on_photos(load, name):
    datamodule = load(name)
    for split in ("train", "val"):
        assert datamodule.dataset(split).items == Photos(split).items(None)
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["image"].shape == (8, 3, 128, 128)


@pytest.mark.parametrize("name", sorted(TRAINING_SETS))
def test_sets_that_are_trained_on_test_on_photos(load, name):
    datamodule = load(name)
    for split in ("val", "test"):
        assert datamodule.dataset(split).items == Photos(split).items(None)


@pytest.mark.parametrize("name", sorted(set(NAMES) - TRAINING_SETS - {"photos", "kodak"}))
def test_a_set_that_is_not_there_says_where_it_was_looked_for(load, tmp_path, name):
    with pytest.raises(ValueError, match=f"'{name}', test images: no .*{tmp_path}"):
        load(name).setup("test")


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"photos", "kodak"}))
def test_a_set_on_disk_needs_a_root(load, name):
    with pytest.raises(ValueError, match=r"datamodule\.root=DIR"):
        load(name, "datamodule.root=null").setup("fit")


def test_a_broken_override_stops_before_anything_is_read(load):
    with pytest.raises(InstantiationException, match="limit must be at least 1"):
        load("coco30k", "datamodule.test.limit=0")


def test_photos_are_tested_at_full_resolution(load):
    assert evaluated(load("photos")) == {
        "astronaut.png": (512, 512),
        "chelsea.png": (300, 451),
        "coffee.png": (400, 600),
    }


def test_folder_takes_all_or_the_given_folders(load, save_image):
    save_image("train/a.png", 300, 300)
    save_image("held_out/b.png", 20, 30)
    assert list(evaluated(load("folder"))) == ["held_out/b.png", "train/a.png"]
    overrides = ["datamodule.train.path=[train,held_out]", "datamodule.test.path=held_out"]
    datamodule = load("folder", *overrides)
    assert evaluated(datamodule) == {"b.png": (20, 30)}
    (batch,) = datamodule.train_dataloader()
    assert sorted(batch["name"]) == ["held_out/b.png", "train/a.png"]
    assert batch["image"].shape == (2, 3, 256, 256)


def test_kodak_is_24_images_at_full_resolution(load, save_image):
    for number in range(1, 25):
        save_image(f"kodim{number:02}.png", *((768, 512) if number == 4 else (512, 768)))
    shapes = evaluated(load("kodak"))
    assert list(shapes) == [f"kodim{number:02}.png" for number in range(1, 25)]
    assert shapes["kodim04.png"] == (768, 512)
    assert shapes["kodim24.png"] == (512, 768)


def test_clic2020_is_at_full_resolution(load, save_image):
    save_image("test/b.png", 300, 500)
    save_image("test/a.png", 123, 45)
    assert evaluated(load("clic2020")) == {"test/a.png": (123, 45), "test/b.png": (300, 500)}


def test_div2k_is_the_centre_of_the_image_at_short_side_768(load, halves):
    halves("DIV2K_valid_HR/0802.png", 1356, 2040)
    halves("DIV2K_valid_HR/0801.png", 1000, 648)
    datamodule = load("div2k")
    assert evaluated(datamodule) == {"0801.png": (768, 768), "0802.png": (768, 768)}
    # Uncropped, resized to 768x1155 and cut in the middle: the edge stays in the middle.
    wide = datamodule.dataset("test")[1]["image"]
    assert (wide[..., :380].max(), wide[..., 388:].min()) == (0, 1)


def test_tecnick_is_512x512(load, halves):
    halves("TESTIMAGES/RGB/RGB_R02_0600x0600/RGB_R02_0600x0600_001.png", 600, 600)
    halves("TESTIMAGES/RGB/RGB_OR_1200x1200/RGB_OR_1200x1200_001.png", 1200, 1200)
    datamodule = load("tecnick")
    assert evaluated(datamodule) == {"RGB_R02_0600x0600_001.png": (512, 512)}
    image = datamodule.dataset("test")[0]["image"]
    assert (image[..., :250].max(), image[..., 262:].min()) == (0, 1)


def test_coco2017_takes_images_over_512_and_resizes_them(load, halves):
    for name, height, width in [("a", 513, 640), ("b", 512, 640), ("c", 640, 612), ("d", 480, 640)]:
        halves(f"test2017/{name}.jpg", height, width)
    datamodule = load("coco2017")
    assert evaluated(datamodule) == {"a.jpg": (384, 384), "c.jpg": (384, 384)}
    # In proportion, and cut in the middle: black and white are equally wide.
    assert abs(datamodule.dataset("test")[0]["image"].mean().item() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("name", "folder", "side"), [("coco2017", "test2017", 384), ("div2k", "DIV2K_valid_HR", 768)]
)
def test_cdcs_sets_are_resized_as_in_its_authors_loader(load, tmp_path, name, folder, side):
    # The shorter side, by Pillow's bilinear filter, then the centre.
    photograph = Image.fromarray(data.coffee()).resize((1260, 840))
    (tmp_path / folder).mkdir(parents=True)
    photograph.save(tmp_path / folder / "0801.png")
    (image,) = [sample["image"] for sample in load(name).dataset("test")]
    width = side * 1260 // 840
    left = round((width - side) / 2)
    resized = photograph.resize((width, side), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((left, 0, left + side, side)))
    assert np.array_equal((image * 255).round().byte().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("name", "folder", "side"), [("coco30k", "val2014", 256), ("coco30k_512", "train2017", 512)]
)
def test_coco30k_is_a_square_with_captions_where_they_are_given(
    load, tmp_path, halves, name, folder, side
):
    for number, (height, width) in enumerate([(480, 640), (640, 300), (200, 200)]):
        halves(f"{folder}/COCO_{number:012}.jpg", height, width)
    expected = {f"COCO_{number:012}.jpg": (side, side) for number in range(3)}
    assert evaluated(load(name, "datamodule.test.names=null")) == expected
    datamodule = load(name, "datamodule.test.names=null")
    assert "caption" not in datamodule.dataset("test")[0]
    assert datamodule.annotations == set()

    annotations = {
        "images": [{"id": n, "file_name": f"COCO_{n:012}.jpg"} for n in range(3)],
        "annotations": [{"image_id": n, "caption": f"caption {n}"} for n in (2, 0, 1)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(annotations))
    (tmp_path / "list.txt").write_text("COCO_000000000002\nCOCO_000000000000\n")
    datamodule = load(
        name, "datamodule.test.captions=captions.json", "datamodule.test.names=list.txt"
    )
    datamodule.setup("test")
    batches = list(datamodule.test_dataloader())
    assert [batch["caption"] for batch in batches] == [["caption 2"], ["caption 0"]]
    assert load(name)._sources["test"].limit == 30000


def test_coco_at_512_takes_the_images_of_the_public_perco(load, halves):
    for number in (9, 25, 34):
        halves(f"train2017/{number:012}.jpg", 300, 300)
    with pytest.raises(ValueError, match="29998 images of coco_train2017_30k are missing"):
        load("coco30k_512").setup("test")
    datamodule = load("coco30k_512", "datamodule.test.names=[000000000034,000000000009]")
    assert list(evaluated(datamodule)) == ["000000000034.jpg", "000000000009.jpg"]


def test_label_maps_are_cropped_with_their_images(load, tmp_path, halves):
    halves("train2017/000000000009.jpg", 600, 900)
    labels = np.full((600, 900), 89, np.uint8)  # COCO's toothbrush, the last of the 80 things
    labels[:, 450:] = 11  # never annotated
    labels[:300, 450:] = 181
    (tmp_path / "maps").mkdir()
    Image.fromarray(labels).save(tmp_path / "maps" / "000000000009.png")
    datamodule = load(
        "coco30k_512", "datamodule.test.names=null", "datamodule.test.label_maps=maps"
    )
    datamodule.setup("test")
    assert datamodule.annotations == {"label_map"}
    (batch,) = datamodule.test_dataloader()
    (label_map,) = batch["label_map"]
    assert label_map.shape == batch["image"].shape[-2:] == (512, 512)
    assert set(label_map[:, :256].flatten().tolist()) == {79}
    assert set(label_map[:256, 256:].flatten().tolist()) == {170}
    assert set(label_map[256:, 256:].flatten().tolist()) == {255}
    white = batch["image"][0, 0] > 0.5
    assert torch.equal(white, label_map != 79)


@pytest.mark.parametrize(("name", "folder"), [("imagenet", "val"), ("lsun_bedroom", "bedroom")])
def test_the_first_1000_are_squares_of_256(load, halves, save_image, name, folder):
    for number in range(1002, 2, -1):
        save_image(f"{folder}/{number:08}.png", 1, 1)
    halves(f"{folder}/00000001.JPEG", 375, 500)
    halves(f"{folder}/00000002.webp", 400, 256)
    datamodule = load(name)
    dataset = datamodule.dataset("test")
    assert [item.name for item in dataset.items][:3] == [
        "00000001.JPEG",
        "00000002.webp",
        "00000003.png",
    ]
    assert len(dataset) == 1000
    assert dataset[0]["image"].shape == dataset[1]["image"].shape == (3, 256, 256)
    assert abs(dataset[0]["image"].mean().item() - 0.5) < 0.01


def test_openimages_are_random_512_crops(load, save_image):
    for name in ("a/1", "b/2"):
        save_image(f"train/{name}.jpg", 700, 1024)
    save_image("train/b/small.jpg", 100, 90)
    datamodule = load("openimages", "datamodule.num_workers=0")
    datamodule.setup("fit")
    (batch,) = datamodule.train_dataloader()
    assert batch["image"].shape == (3, 3, 512, 512)
    assert sorted(batch["name"]) == ["a/1.jpg", "b/2.jpg", "b/small.jpg"]


def test_vimeo90k_is_a_random_frame_of_each_clip_in_256_crops(load, tmp_path, save_image):
    for clip in ("00001/0001", "00002/0005"):
        for frame in range(1, 8):
            save_image(f"sequences/{clip}/im{frame}.png", 256, 448, value=frame)
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n00002/0005\n")
    datamodule = load("vimeo90k", "datamodule.num_workers=0")
    datamodule.setup("fit")
    frames = set()
    loader = datamodule.train_dataloader()
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        assert sorted(batch["name"]) == ["00001/0001", "00002/0005"]
        assert batch["image"].shape == (2, 3, 256, 256)
        frames |= set((batch["image"][:, 0, 0, 0] * 255).round().tolist())
    assert len(frames) > 3
