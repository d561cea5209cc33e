import math

import pytest
import torch

from diffcodec.metrics.miou import mean_iou
from diffcodec.metrics.networks.segmentation import Overlaps
from tests.metrics.tiny import save_segformer


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_segformer(tmp_path_factory.mktemp("segformer"))


def test_the_network_gives_a_class_for_each_pixel_of_the_picture(source, pair):
    x, _ = pair
    overlaps = Overlaps(source)
    labels = overlaps.segment(x)
    assert labels.shape == x.shape[-2:]
    assert set(labels.unique().tolist()) <= set(range(4))
    with torch.no_grad():
        pixels = overlaps._processor(images=[x], return_tensors="pt")["pixel_values"]
        coarse = overlaps.model(pixels).logits
    grown = torch.nn.functional.interpolate(coarse, x.shape[-2:], mode="bilinear")
    assert (labels == grown.argmax(1)[0]).double().mean() > 0.999


def test_what_it_predicts_overlaps_with_itself_entirely(source, pair):
    x, _ = pair
    overlaps = Overlaps(source)
    assert mean_iou(overlaps(overlaps.segment(x), x)) == 100


def test_counts_are_those_of_the_definition(source, monkeypatch):
    overlaps = Overlaps(source)
    predicted = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    monkeypatch.setattr(overlaps, "segment", lambda x: predicted)
    labels = torch.tensor([[0, 1, 1, 255], [0, 1, 0, 255]])
    counts = overlaps(labels, torch.zeros(3, 2, 4, dtype=torch.uint8))
    # Unlabelled pixels do not count: class 2 is predicted nowhere else.
    assert counts.tolist() == [2, 2, 0, 0, 4, 4, 0, 0]
    assert mean_iou(counts) == pytest.approx(50)


def test_the_mean_is_that_of_the_whole_set():
    first, second = torch.tensor([1.0, 0, 2, 2]), torch.tensor([9.0, 0, 10, 2])
    assert mean_iou(first) == pytest.approx(25)
    assert mean_iou(first + second) == pytest.approx(100 * (10 / 12 + 0) / 2)
    assert math.isnan(mean_iou(torch.zeros(4)))


def test_a_class_that_the_network_does_not_have_is_refused(source, pair):
    labels = torch.full(pair[0].shape[-2:], 7)
    with pytest.raises(ValueError, match="has class 7, but the segmentation network has 4"):
        Overlaps(source)(labels, pair[0])


def test_a_network_that_does_not_segment_is_refused(tmp_path):
    from transformers import CLIPTextConfig

    CLIPTextConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="CLIPTextConfig is not the config of a segmentation network"
    ):
        Overlaps(str(tmp_path))
