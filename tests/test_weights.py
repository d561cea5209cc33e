import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffcodec.weights import load_checkpoint, load_strict, remap, state_dict_of

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def test_file_formats(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    torch.save({"state_dict": STATE, "epoch": 3}, tmp_path / "w.ckpt")
    for name in ("w.safetensors", "w.ckpt"):
        state = state_dict_of(load_checkpoint(str(tmp_path / name)))
        assert torch.equal(state["a.weight"], STATE["a.weight"])
        assert set(state) == set(STATE)


def test_pickles_that_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="plain tensors"):
        load_checkpoint(str(tmp_path / "w.pt"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_broken_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x05\x00nonsense")
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pt", r"no weights at 'nowhere\.pt'"),
        ("package:nothing.safetensors", r"choose from \['mbt2018_mean_vbr\.safetensors'\]"),
        ("hf://broken", "hf://owner/repo"),
        ("https://example.org/w.pth", "checksum"),
    ],
)
def test_sources_that_are_not_there_say_what_would_be(source, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(source, package="diffcodec.base")


def test_a_url_is_checked_against_its_sha256(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.save(STATE, tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()

    def fetch(url, dst, hash_prefix):
        assert url == "https://example.org/w.pth"
        Path(dst).write_bytes((tmp_path / "w.pth").read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    state = load_checkpoint(f"https://example.org/w.pth#sha256={digest}")
    assert torch.equal(state["a.bias"], STATE["a.bias"])
    with pytest.raises(ValueError, match="another sha256"):
        load_checkpoint(f"https://example.org/w.pth#sha256={'0' * 64}")


def test_the_hub_is_asked_for_the_right_file(tmp_path, monkeypatch):
    import huggingface_hub

    save_file(STATE, tmp_path / "w.safetensors")
    asked = []

    def download(repo, filename, revision=None):
        asked.append((repo, filename, revision))
        return str(tmp_path / "w.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    load_checkpoint("hf://owner/repo/sub/w.safetensors")
    load_checkpoint("hf://owner/repo@v2/w.safetensors")
    assert asked == [
        ("owner/repo", "sub/w.safetensors", None),
        ("owner/repo", "w.safetensors", "v2"),
    ]


def test_remap_renames_by_the_first_row_that_matches():
    table = [(r"drop\.", None), (r"block\.(\d)\.", r"y\1.conv."), (r"block", "never")]
    state = {"drop.x": torch.ones(1), "block.3.w": torch.ones(2), "same": torch.ones(3)}
    assert set(remap(state, table)) == {"y3.conv.w", "same"}


def test_strict_loading_names_what_does_not_fit():
    module = nn.Linear(3, 2)
    load_strict(module, {"weight": torch.ones(2, 3).half(), "bias": torch.ones(2)}, source="here")
    assert module.weight.dtype == torch.float32
    with pytest.raises(ValueError, match=r"(?s)weights from here do not fit.*extra"):
        load_strict(
            module,
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "extra": torch.ones(1)},
            source="here",
        )
