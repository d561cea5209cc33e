import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.label_maps import IGNORED, LabelMap, coco_stuff_values


def test_values_are_classes_or_looked_up(tmp_path):
    Image.fromarray(np.array([[0, 3, 7], [255, 3, 9]], np.uint8)).save(tmp_path / "a.png")
    assert LabelMap(tmp_path / "a.png").read().tolist() == [[0, 3, 7], [255, 3, 9]]
    labels = LabelMap(tmp_path / "a.png", [3, 9]).read()
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[IGNORED, 0, IGNORED], [IGNORED, 0, 1]]


def test_a_palette_holds_classes_not_colours(tmp_path):
    image = Image.fromarray(np.array([[1, 2]], np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "a.png")
    assert LabelMap(tmp_path / "a.png").read().shape == (1, 2)


def test_colours_and_missing_files_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has 3 channels, not one"):
        LabelMap(tmp_path / "a.png").read()
    with pytest.raises(ValueError, match=r"cannot read the label map .*b\.png"):
        LabelMap(tmp_path / "b.png").read()


def test_coco_stuff_has_171_classes():
    values = coco_stuff_values()
    assert len(values) == len(set(values)) == 171
    assert values[0] == 0  # person
    assert values[79] == 89  # toothbrush, the last of 80 things
    assert values[80] == 91  # banner, the first of 91 kinds of stuff
    assert values[-1] == 181
