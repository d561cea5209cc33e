import json

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffcodec.perco.captioners import QUALITY, FileCaptioner, FixedCaptioner
from experiments.cli import compose_config, root_cause

X = torch.zeros(2, 3, 8, 8)


def test_fixed():
    assert FixedCaptioner()(X) == [None, None]
    assert FixedCaptioner("")(X) == ["", ""]
    assert FixedCaptioner(QUALITY)(X) == [QUALITY] * 2


def test_by_name_with_or_without_folder_and_suffix():
    captions = {"a.png": "one", "b": "two", "sub/c.jpg": "three"}
    captioner = FileCaptioner(captions, path="captions.json")
    assert captioner(X, {"name": ["val/a.png", "b.jpg"]}) == ["one", "two"]
    assert captioner(X[:1], {"name": ["sub/c.jpg"]}) == ["three"]
    with pytest.raises(ValueError, match=r"captions\.json has no caption for 'd\.png'"):
        captioner(X[:1], {"name": ["d.png"]})
    with pytest.raises(ValueError, match=r"captions from captions\.json need image names"):
        captioner(X)


def test_the_data_sets_own():
    assert FileCaptioner()(X, {"caption": ["one", "two"]}) == ["one", "two"]
    with pytest.raises(ValueError, match=r"codec\.captioner\.path=FILE"):
        FileCaptioner()(X, {"name": ["a", "b"]})


def test_the_config_reads_a_file(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"a.png": "one"}))
    cfg = compose_config(["codec=perco", "codec/captioner=file", f"codec.captioner.path={path}"])
    captioner = instantiate(cfg.codec.captioner)
    assert captioner(X[:1], {"name": ["a.png"]}) == ["one"]
    with pytest.raises(ValueError, match=r"captions\.json has no caption for 'b\.png'"):
        captioner(X[:1], {"name": ["b.png"]})


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_a_file_without_captions_is_named(tmp_path, text):
    path = tmp_path / "captions.json"
    path.write_text(text)
    cfg = compose_config(["codec=perco", "codec/captioner=file", f"codec.captioner.path={path}"])
    with pytest.raises(InstantiationException) as error:
        instantiate(cfg.codec.captioner)
    assert "captions.json" in str(root_cause(error.value))
