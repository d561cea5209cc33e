"""The floor plan: who may import whom, and what every file must look like."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCAL = {"diffcodec", "datamodules", "callbacks", "experiments"}
LIBRARY = ROOT / "codecs" / "diffcodec"
METHODS = {"perco", "cdc", "sdedit", "diffc", "ddcm", "stablecodec", "base"}
# What the shared latent diffusion model is built on: neither codecs nor methods.
BELOW_CODING = {"coding", "bitstream", "exact", "tiles"}
BELOW_LATENT = {
    *("", "latent", "diffusion", "weights", "entropy", "bitstream", "perceptual", "padding"),
    *("optimization", "configuration", "decoder_loss", "local_files"),
}
SOURCES = [
    path
    for folder in (LIBRARY, ROOT / "datamodules", ROOT / "callbacks", ROOT / "experiments")
    for path in sorted(folder.rglob("*.py"))
]


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in LOCAL}


def allowed(path: Path, name: str) -> bool:
    top = path.relative_to(ROOT).parts[0]
    if top == "experiments":
        return True
    if top == "callbacks":
        # Of the library what every codec shares, and no method.
        return name.startswith("callbacks") or (
            name.startswith("diffcodec") and name.split(".")[1:2] not in [[m] for m in METHODS]
        )
    if top == "datamodules":
        return name.startswith("datamodules")
    room = path.relative_to(LIBRARY).parts[0]
    target = name.split(".")[1] if "." in name else ""
    if not name.startswith("diffcodec"):
        return False
    if room == "diffusion":
        return target in {"", "diffusion"}
    if room == "coding":
        return target in BELOW_CODING
    if room == "latent":
        return target in BELOW_LATENT
    return target not in METHODS - {room}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_floor_plan(path):
    broken = [name for name in imports(path) if not allowed(path, name)]
    assert not broken, f"{path.relative_to(ROOT)} must not import {broken}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "has no docstring"
    assert path.name != "utils.py"


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
