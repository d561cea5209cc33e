import json

import pytest

from datamodules.annotations import (
    Names,
    read_all_captions,
    read_captions,
    read_names,
    shipped_names,
)


@pytest.mark.parametrize(
    "written", ["val/0001.png", "0001.png", "0001", "0001.jpg", "data/val/0001", "val/0001"]
)
def test_a_name_is_found_with_other_folders_and_suffix(written):
    assert Names(["val/0001.png", "val/0002.png"]).find(written) == "val/0001.png"


@pytest.mark.parametrize("written", ["0003", "test/0001.png", "val/1/0001.png", "0001.png.txt", ""])
def test_another_name_is_not_found(written):
    assert Names(["val/0001.png"]).find(written) is None


def test_the_exact_name_wins_over_similar_ones():
    names = Names(["a.png", "b/a.png", "a.jpg"])
    assert names.find("a.png") == "a.png"
    assert names.find("b/a.png") == "b/a.png"
    assert names.find("a.jpg") == "a.jpg"


def test_the_same_suffix_wins_over_others():
    assert Names(["x/a.png", "x/a.jpg"]).find("a.jpg") == "x/a.jpg"


def test_a_dot_in_a_name_is_no_suffix():
    names = Names(["v1.2.png", "v1.3.png"])
    assert names.find("v1.3") == "v1.3.png"
    assert names.find("v1") is None


@pytest.mark.parametrize("written", ["a", "a.webp"])
def test_an_ambiguous_name_is_refused_with_its_meanings(written):
    with pytest.raises(ValueError, match=f"'{written}': it matches 'x/a.png' and 'y/a.png'"):
        Names(["x/a.png", "y/a.png"]).find(written)


def test_names_are_lines_and_may_hold_blanks(tmp_path):
    (tmp_path / "names.txt").write_text("my photo.png\n\n  b.png \r\nc\n")
    assert read_names(tmp_path / "names.txt") == ["my photo.png", "b.png", "c"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"a\nb\na\n", "names 'a' twice"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_a_broken_list_of_names_says_what_is_wrong(tmp_path, content, problem):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"names.txt.*{problem}|{problem}.*names.txt"):
        read_names(tmp_path / "names.txt")


def test_a_missing_list_of_names_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the list of images .*gone\.txt"):
        read_names(tmp_path / "gone.txt")


def test_the_first_caption_of_each_coco_image_is_taken(tmp_path):
    annotations = {
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 3, "caption": "A cat. "},
            {"image_id": 7, "caption": "A dog."},
            {"image_id": 3, "caption": "Another cat."},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(annotations))
    assert read_captions(tmp_path / "captions.json") == {"a.jpg": "A cat.", "b.jpg": "A dog."}


def test_captions_may_be_a_plain_object(tmp_path):
    (tmp_path / "captions.json").write_text('{"a.png": "Ein Hündchen"}', encoding="utf-8")
    assert read_captions(tmp_path / "captions.json") == {"a.png": "Ein Hündchen"}


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "3",
        '["annotations"]',
        '{"a.png": 3}',
        '{"annotations": []}',
        '{"annotations": [], "images": []}',
        '{"annotations": [{"image_id": 1, "caption": "x"}], "images": []}',
        '{"annotations": [{"image_id": 1}], "images": [{"id": 1, "file_name": "a"}]}',
    ],
)
def test_other_json_is_no_caption_file(tmp_path, content):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(ValueError, match=r"captions\.json is neither a COCO caption file nor"):
        read_captions(tmp_path / "captions.json")


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_an_unreadable_caption_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "captions.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read captions from .*captions\.json"):
        read_captions(tmp_path / "captions.json")


def test_an_image_may_have_several_captions(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text('{"a": "one", "b": ["two", "three"]}')
    assert read_all_captions(path) == {"a": ["one"], "b": ["two", "three"]}
    coco = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 7, "caption": f" {c}\n"} for c in ("first", "second")],
    }
    path.write_text(json.dumps(coco))
    assert read_all_captions(path) == {"a.jpg": ["first", "second"]}
    assert read_captions(path) == {"a.jpg": "first"}


@pytest.mark.parametrize("content", ['{"a": []}', '{"a": [1]}', '{"a": 3}'])
def test_what_is_no_caption_is_refused(tmp_path, content):
    path = tmp_path / "captions.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="neither a COCO caption file nor"):
        read_all_captions(path)


def test_the_list_that_ships_is_that_of_the_public_perco(shared):
    names = shipped_names("coco_train2017_30k")
    assert len(names) == len(set(names)) == 30_000
    assert names[0] == "000000000009.jpg"
    listed = (shared / "reference" / "coco" / "train2017_30k_names.txt").read_text().split()
    assert names == listed
    assert shipped_names("coco_train2017") is None
