import os

import pytest
import torch

from diffcodec.perco.blip2 import Blip2Captioner
from tests.perco.tiny import save_blip2


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_blip2(tmp_path_factory.mktemp("blip2"))


def test_captions_come_from_the_image_without_the_prompt(model, tmp_path):
    captioner = Blip2Captioner(model, max_tokens=6, cache=str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 1, 1, generator=generator).expand(4, 3, 30, 40)
    captions = captioner(images)
    assert len(captions) == 4
    for caption in captions:
        assert 0 < len(caption.split()) <= 6
        assert "<" not in caption
    assert len(set(captions)) > 1, "the image does not reach the language model"
    assert captioner(images.flip(0)) == captions[::-1]


def test_images_of_any_sizes_are_captioned_together(model, tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 20 + 8 * i, 40 - 6 * i, generator=generator) for i in range(4)]
    alone = Blip2Captioner(model, max_tokens=5, cache=str(tmp_path / "alone"))
    expected = [alone.caption_images([image])[0] for image in images]
    together = Blip2Captioner(model, max_tokens=5, cache=str(tmp_path / "together"))
    assert together.caption_images([images[0]]) == expected[:1]
    counts = []
    generate = together._generate
    monkeypatch.setattr(together, "_generate", lambda p, d: counts.append(len(p)) or generate(p, d))
    # The first is known, and the last is asked for twice.
    assert together.caption_images([*images, images[-1]]) == [*expected, expected[-1]]
    assert counts == [3]


def test_an_image_is_captioned_once(model, tmp_path, monkeypatch):
    x = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    first = Blip2Captioner(model, max_tokens=4, cache=str(tmp_path))(x)
    again = Blip2Captioner(model, max_tokens=4, cache=str(tmp_path))
    monkeypatch.setattr(again, "_load", lambda: pytest.fail("the model is loaded again"))
    assert again(x) == first
    # By content: what becomes the same 8-bit picture is the same image.
    assert again(x.mul(255).round().div(255)) == first
    monkeypatch.setattr(again, "_generate", lambda *_: ["new"])
    assert again(1 - x) == ["new"]


def test_hosts_with_the_same_process_id_may_write_to_one_cache(tmp_path, monkeypatch):
    def host(caption: str) -> Blip2Captioner:
        captioner = Blip2Captioner(cache=str(tmp_path))
        monkeypatch.setattr(captioner, "_generate", lambda *_: [caption])
        return captioner

    x, first, second = torch.rand(1, 3, 8, 8), host("a dog"), host("a red dog")
    replace = os.replace

    def replace_after_the_other_host(source, target):
        monkeypatch.setattr(os, "replace", replace)
        assert second(x) == ["a red dog"]
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_after_the_other_host)
    assert first(x) == ["a dog"]
    (file,) = first.folder.iterdir()  # no drafts are left
    assert file.read_text() == "a dog"
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode


def test_other_settings_have_other_captions(tmp_path):
    settings = (("hf://a/b", 32), ("hf://a/c", 32), ("hf://a/b", 8), ("hf://a/b@v2", 32))
    folders = {
        Blip2Captioner(name, max_tokens=tokens, cache=str(tmp_path)).folder
        for name, tokens in settings
    }
    assert len(folders) == 4


def test_a_model_that_cannot_be_had_says_so(tmp_path):
    captioner = Blip2Captioner(str(tmp_path), cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="could not load BLIP-2 from"):
        captioner(torch.rand(1, 3, 8, 8))
