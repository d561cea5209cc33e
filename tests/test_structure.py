"""The floor plan: which room may import which, and what every file must look like."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "codecs" / "diffcodec"
PACKAGES = ("datamodules", "callbacks", "experiments")
DOORS = {"codec", "measuring", "points"}
# What the rooms of the library may import, beside themselves. The doors are rooms of one file.
SHARED = {*DOORS, "coding", "diffusion", "latent", "networks", "results", "training", "weights"}
ROOMS = {
    "diffusion": set(),
    "networks": set(),
    "points": set(),
    "weights": set(),
    "coding": {"networks"},
    "metrics": {"weights"},
    "results": {"points", "metrics"},
    "measuring": {"points"},
    "codec": {"measuring", "points", "coding", "weights"},
    "training": {*DOORS, "metrics"},
    "latent": {"points", "coding", "diffusion", "networks", "training", "weights"},
    # A method never imports another one: a base codec is handed over by the config.
    **dict.fromkeys(("base", "cdc", "perco", "sdedit", "stablecodec"), SHARED),
    "zero_shot": SHARED,
    "ddcm": {*SHARED, "zero_shot"},
    "diffc": {*SHARED, "zero_shot"},
}
PACKAGE_RULES = {
    "datamodules": set(),
    "callbacks": {*DOORS, "metrics", "results", "training", "weights", "coding", "networks"},
    "experiments": {*ROOMS, "datamodules", "callbacks"},
}
FILES = [
    path
    for folder in (LIBRARY, *(ROOT / package for package in PACKAGES))
    for path in sorted(folder.rglob("*.py"))
]


def room_of(path: Path) -> str:
    if path.is_relative_to(LIBRARY):
        first = path.relative_to(LIBRARY).parts[0]
        return first.removesuffix(".py")
    return path.relative_to(ROOT).parts[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """The rooms and packages that a file imports when it runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "diffcodec" and rest and rest[0] in ROOMS:
                yield rest[0]
            elif first in PACKAGES:
                yield first
        yield from imported(node)


def broken(room: str, allowed: set[str]) -> dict[str, set[str]]:
    """Files of a room that import what they may not."""
    found = {}
    for path in FILES:
        if room_of(path) == room:
            other = {*imported(ast.parse(path.read_text()))} - allowed - {room}
            if other:
                found[str(path.relative_to(ROOT))] = other
    return found


@pytest.mark.parametrize("room", [*ROOMS, *PACKAGE_RULES])
def test_a_room_imports_what_it_may(room):
    assert not broken(room, {**ROOMS, **PACKAGE_RULES}[room])


def test_every_file_is_in_a_room():
    assert {room_of(path) for path in FILES} == {*ROOMS, *PACKAGES, "__init__"}


def test_no_circle_of_rooms():
    rest = dict(ROOMS)
    while rest:
        leaves = {room for room, targets in rest.items() if not targets & rest.keys() - {room}}
        assert leaves, f"these rooms import each other in a circle: {sorted(rest)}"
        rest = {room: targets for room, targets in rest.items() if room not in leaves}


def test_files_say_what_they_are():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
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
