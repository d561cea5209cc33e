import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.image_sets import Folder, Photos, Septuplets
from datamodules.label_maps import LabelMap


def names(items):
    return [item.name for item in items]


# Folder


def test_a_folder_lists_its_images_by_path(tmp_path, save_image):
    for name in ("b.png", "a/2.png", "a/1.png"):
        save_image(name)
    items = Folder().items(tmp_path)
    assert names(items) == ["a/1.png", "a/2.png", "b.png"]
    assert [item.paths for item in items] == [(tmp_path / name,) for name in names(items)]
    assert {item.caption for item in items} == {None}


def test_a_folder_needs_a_root_unless_its_path_is_absolute(tmp_path, save_image):
    save_image("a.png")
    with pytest.raises(ValueError, match=r"datamodule\.root=DIR"):
        Folder("photos").items(None)
    assert names(Folder(str(tmp_path)).items(None)) == ["a.png"]
    assert names(Folder(str(tmp_path)).items(Path("/elsewhere"))) == ["a.png"]


def test_several_folders_give_unique_names(tmp_path, save_image):
    for name in ("train/a.png", "test/a.png", "test/b/a.png", "val/a.png"):
        save_image(name)
    items = Folder(["train", "test"]).items(tmp_path)
    assert names(items) == ["train/a.png", "test/a.png", "test/b/a.png"]


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path, save_image):
    for name in ("x/train/a.png", "y/train/a.png"):
        save_image(name)
    assert names(Folder(["x/train", "y/train"]).items(tmp_path)) == [
        "x/train/a.png",
        "y/train/a.png",
    ]


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "a/b"], ["a/b", "."], ["a", "b/../a"]])
def test_folders_that_overlap_are_refused(tmp_path, save_image, paths):
    save_image("a/b/1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="read twice"):
        Folder(paths).items(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no such folder: {tmp_path}/train"):
        Folder("train").items(tmp_path)


def test_a_folder_without_images_says_what_it_looked_for(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=rf"no image \(.*\.png.*\) below {tmp_path}/train"):
        Folder("train").items(tmp_path)


def test_a_limit_takes_the_first(tmp_path, save_image):
    for name in "cab":
        save_image(f"{name}.png")
    assert names(Folder(limit=2).items(tmp_path)) == ["a.png", "b.png"]
    assert names(Folder(limit=9).items(tmp_path)) == ["a.png", "b.png", "c.png"]
    for name in "cab":
        save_image(f"more/{name}.png")
        save_image(f"most/{name}.png")
    assert names(Folder(["most", "more"], limit=4).items(tmp_path)) == [
        "most/a.png",
        "most/b.png",
        "most/c.png",
        "more/a.png",
    ]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match=f"limit must be at least 1, or null, got {limit}"):
        Folder(limit=limit)


def test_small_images_are_left_out(tmp_path, save_image):
    for name, height, width in [("a", 20, 9), ("b", 9, 20), ("c", 10, 10), ("d", 11, 30)]:
        save_image(f"{name}.png", height, width)
    assert names(Folder(min_side=10).items(tmp_path)) == ["c.png", "d.png"]
    assert names(Folder(min_side=10, limit=1).items(tmp_path)) == ["c.png"]
    with pytest.raises(ValueError, match="sides of 12 pixels or more"):
        Folder(min_side=12).items(tmp_path)


def test_a_file_of_unknown_size_is_left_for_its_reader_to_report(tmp_path, save_image):
    save_image("a.png")
    (tmp_path / "broken.png").write_bytes(b"")
    assert names(Folder(min_side=10).items(tmp_path)) == ["a.png", "broken.png"]


def test_a_list_of_names_chooses_and_orders(tmp_path, save_image):
    for name in ("val/1.png", "val/2.png", "val/3.png"):
        save_image(name)
    (tmp_path / "list.txt").write_text("3.png\nval/1\n")
    chosen = Folder("val", names="list.txt")
    assert names(chosen.items(tmp_path)) == ["3.png", "1.png"]
    assert names(Folder("val", names="list.txt", limit=1).items(tmp_path)) == ["3.png"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("1.png\n5.png\n6.png", r"2 images of .*list\.txt are missing, first '5\.png'"),
        ("a", "'a': it matches 'x/a.png' and 'y/a.png'"),
        ("1\n1.png", r"list\.txt names one image twice"),
    ],
)
def test_a_list_that_does_not_fit_the_images_is_refused(tmp_path, save_image, lines, problem):
    for name in ("set/1.png", "set/x/a.png", "set/y/a.png"):
        save_image(name)
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(ValueError, match=problem):
        Folder("set", names="list.txt").items(tmp_path)


def test_captions_are_found_by_name(tmp_path, save_image):
    for name in ("x/a.png", "y/a.png", "b.png"):
        save_image(name)
    captions = {"b": "three", "x/a.jpg": "one", "y/a.jpg": "two"}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    items = Folder(captions="captions.json").items(tmp_path)
    assert {item.name: item.caption for item in items} == {
        "b.png": "three",
        "x/a.png": "one",
        "y/a.png": "two",
    }


def test_only_the_chosen_images_need_captions(tmp_path, save_image):
    for name in "abc":
        save_image(f"{name}.png")
    (tmp_path / "captions.json").write_text('{"a.png": "one"}')
    assert Folder(captions="captions.json", limit=1).items(tmp_path)[0].caption == "one"
    with pytest.raises(ValueError, match=r"2 of 3 images have no caption in .*, first 'b\.png'"):
        Folder(captions="captions.json").items(tmp_path)


def test_one_caption_is_sent_and_another_one_is_scored(tmp_path, save_image):
    save_image("a.png")
    (tmp_path / "captions.json").write_text('{"a": ["one", "two", "three"]}')
    (item,) = Folder(captions="captions.json").items(tmp_path)
    assert (item.caption, item.score_caption) == ("one", None)
    source = Folder(captions="captions.json", caption_index=2, score_caption_index=1)
    (item,) = source.items(tmp_path)
    assert (item.caption, item.score_caption) == ("three", "two")
    with pytest.raises(ValueError, match=r"1 of 1 images have no caption number 3 \(from 0\)"):
        Folder(captions="captions.json", score_caption_index=3).items(tmp_path)


def test_the_first_images_may_be_skipped(tmp_path, save_image):
    for name in "abcd":
        save_image(f"{name}.png")
    assert names(Folder(skip=1, limit=2).items(tmp_path)) == ["b.png", "c.png"]
    assert names(Folder(skip=3).items(tmp_path)) == ["d.png"]
    with pytest.raises(ValueError, match="4 images are too few to skip the first 4"):
        Folder(skip=4).items(tmp_path)
    with pytest.raises(ValueError, match="skip must be at least 0, got -1"):
        Folder(skip=-1)


def test_captions_to_score_need_captions():
    with pytest.raises(ValueError, match="score_caption_index needs captions"):
        Folder(score_caption_index=1)
    with pytest.raises(ValueError, match="counted from 0, got caption_index=-1"):
        Folder(captions="captions.json", caption_index=-1)


def test_names_may_be_given_one_by_one(tmp_path, save_image):
    for name in ("val/1.png", "val/2.png", "val/3.png"):
        save_image(name)
    assert names(Folder("val", names=["3.png", "1"]).items(tmp_path)) == ["3.png", "1.png"]
    with pytest.raises(ValueError, match="1 images of the list of names are missing, first '9'"):
        Folder("val", names=["9"]).items(tmp_path)


def test_label_maps_are_found_by_name(tmp_path, save_image):
    for name in ("set/x/a.jpg", "set/b.jpg", "maps/x/a.png", "maps/b.png"):
        save_image(name)
    items = Folder("set", label_maps="maps", label_values=[4, 5]).items(tmp_path)
    assert [item.label_map for item in items] == [
        LabelMap(tmp_path / "maps" / "b.png", [4, 5]),
        LabelMap(tmp_path / "maps" / "x" / "a.png", [4, 5]),
    ]
    (tmp_path / "maps" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images have no label map below .*maps"):
        Folder("set", label_maps="maps").items(tmp_path)


def test_ambiguous_captions_are_refused(tmp_path, save_image):
    save_image("a.png")
    (tmp_path / "captions.json").write_text('{"x/a.png": "one", "y/a.png": "two"}')
    with pytest.raises(ValueError, match=r"ambiguous name 'a\.png'"):
        Folder(captions="captions.json").items(tmp_path)


# Photos


def test_the_photos_of_the_splits_are_colour_and_differ():
    seen: set[str] = set()
    for split in ("train", "val", "test"):
        for item in Photos(split).items(None):
            assert item.name not in seen
            seen.add(item.name)
            with Image.open(item.paths[0]) as image:
                assert image.mode in ("RGB", "RGBA")
                assert min(image.size) >= 256
    assert len(seen) == 9


def test_an_unknown_split_lists_the_choices():
    with pytest.raises(ValueError, match="choose from train, val, calibration, test"):
        Photos("dev")


# Septuplets


def test_septuplets_are_the_frames_of_the_listed_clips(tmp_path, save_image):
    for frame in range(1, 8):
        save_image(f"vimeo/sequences/00002/0001/im{frame}.png")
    (tmp_path / "vimeo" / "sep_trainlist.txt").write_text("00002/0001\n00001/0007\n\n")
    first, second = Septuplets("vimeo").items(tmp_path)
    assert (first.name, second.name) == ("00002/0001", "00001/0007")
    assert [path.name for path in first.paths] == [f"im{i}.png" for i in range(1, 8)]
    assert all(path.is_file() for path in first.paths)


def test_septuplets_without_a_list_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match=r"expected as .*sep_trainlist\.txt and .*im1\.png"):
        Septuplets().items(tmp_path)


def test_septuplets_without_frames_name_the_first(tmp_path):
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n")
    with pytest.raises(ValueError, match=r"/sequences/00001/0001/im1\.png does not exist"):
        Septuplets().items(tmp_path)


def test_septuplets_need_a_root():
    with pytest.raises(ValueError, match=r"datamodule\.root=DIR"):
        Septuplets().items(None)
