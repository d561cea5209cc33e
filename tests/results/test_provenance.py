import shutil
import subprocess
from pathlib import Path

import torch

import diffcodec
from diffcodec.results.provenance import git_revision, image_digest, set_digest, sources_digest

PACKAGE = Path(diffcodec.__file__).parent


def git(folder, *command):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *command], cwd=folder, check=True, capture_output=True)


def repository(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init")
    (folder / "theirs.txt").touch()
    git(folder, "add", ".")
    git(folder, "commit", "-m", "theirs")
    return folder


def test_the_revision_is_a_commit_or_nothing():
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40


def test_the_revision_of_another_repository_is_none(tmp_path, monkeypatch):
    theirs = repository(tmp_path / "theirs")
    for place in (".venv/lib/python3.12/site-packages", "third_party/this", "codecs"):
        package = theirs / place / "diffcodec"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        assert git_revision(package) is None
    # Unpacked, and not committed there; then as its own checkout is.
    assert git_revision(theirs / "codecs" / "diffcodec") is None
    git(theirs, "add", ".")
    git(theirs, "commit", "-m", "ours")
    assert len(git_revision(theirs / "codecs" / "diffcodec") or "") == 40
    monkeypatch.setenv("GIT_DIR", str(repository(tmp_path / "hook") / ".git"))
    assert git_revision(theirs / "third_party" / "this" / "diffcodec") is None


def test_the_digest_of_the_sources_is_that_of_what_is_on_the_disk(tmp_path, monkeypatch):
    shutil.copytree(PACKAGE / "diffusion", tmp_path / "a_copy_of_ours")
    monkeypatch.syspath_prepend(tmp_path)
    before = sources_digest("a_copy_of_ours")
    with (tmp_path / "a_copy_of_ours" / "sampler.py").open("a") as file:
        file.write("# changed\n")
    sources_digest.cache_clear()
    assert sources_digest("a_copy_of_ours") != before
    assert len(sources_digest("diffcodec", "callbacks", "datamodules")) == 32


def test_digests_tell_pixels_sizes_names_and_order_apart():
    x = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    assert image_digest(x) == image_digest(x.clone())
    assert len({image_digest(i) for i in (x, x + 1, x.reshape(3, 4, 2), x[:, :, :3])}) == 4
    one, two = ({"name": name, "digest": image_digest(x)} for name in ("a", "b"))
    assert len({set_digest(rows) for rows in ([one], [one, two], [two, one], [two])}) == 4
