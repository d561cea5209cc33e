import json

import pytest
import torch

from diffcodec.perco.captioners import QUALITY, FileCaptioner, FixedCaptioner

X = torch.zeros(2, 3, 8, 8)


def test_fixed():
    assert FixedCaptioner()(X) == [None, None]
    assert FixedCaptioner("")(X) == ["", ""]
    assert FixedCaptioner(QUALITY)(X) == [QUALITY] * 2


def test_json_by_name_with_or_without_folder_and_suffix(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"a.png": "one", "b": "two", "sub/c.jpg": "three"}))
    captioner = FileCaptioner(str(path))
    assert captioner(X, {"name": ["val/a.png", "b.jpg"]}) == ["one", "two"]
    assert captioner(X[:1], {"name": ["sub/c.jpg"]}) == ["three"]
    with pytest.raises(ValueError, match=r"no caption for 'd\.png'"):
        captioner(X[:1], {"name": ["d.png"]})
    with pytest.raises(ValueError, match="need the images' names"):
        captioner(X)


def test_coco_takes_the_first_caption(tmp_path):
    path = tmp_path / "captions_val2014.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "COCO_7.jpg"}],
                "annotations": [
                    {"image_id": 7, "caption": " A cat. "},
                    {"image_id": 7, "caption": "Another."},
                ],
            }
        )
    )
    assert FileCaptioner(str(path))(X[:1], {"name": ["COCO_7.jpg"]}) == ["A cat."]


def test_the_data_sets_own():
    assert FileCaptioner()(X, {"caption": ["one", "two"]}) == ["one", "two"]
    with pytest.raises(ValueError, match=r"codec\.captioner\.path=FILE"):
        FileCaptioner()(X, {"name": ["a", "b"]})


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"a": 1}', '{"annotations": [{}]}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "captions.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"captions\.json"):
        FileCaptioner(str(path))
    with pytest.raises(ValueError, match="cannot read captions"):
        FileCaptioner(str(tmp_path / "none.json"))
