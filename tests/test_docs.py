"""The pages: figures have one source, what ships has a card, and shell blocks paste into zsh."""

import importlib.util
import re
from pathlib import Path

import pytest

from diffcodec.weights.sources import shipped
from experiments.info import CARD

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = ("Data and licence", "Recipe", "Steps and compute", "Figures", "Limits")


def script():
    """The module docs/copy_figures.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("copy_figures", ROOT / "docs/copy_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_copies_of_figures_are_those_of_the_results(capsys):
    assert script().main(["--check"]) == 0, f"run docs/copy_figures.py: {capsys.readouterr().out}"


def test_a_figure_that_changes_is_copied():
    copy_figures = script()
    source = (
        "| codec | bpp | PSNR (dB) |\n|---|---|---|\n| `a` x=1 | 0.50 | 30.1 |\n| `b` | | 9 |\n"
    )
    page = "| codec | paper | PSNR (dB) |\n|---|---|---|\n| `a` x=1 | P | 29.9 |\n| `c` | | 1 |\n"
    known = copy_figures.figures(source)
    assert known["`b`"] == {"bpp": "", "PSNR (dB)": "9"}
    assert copy_figures.updated(page, known) == page.replace("29.9", "30.1")
    assert copy_figures.updated(source, known) == source


@pytest.mark.parametrize("name", sorted(shipped()))
def test_what_ships_has_a_card(name):
    card = (shipped()[name] / CARD).read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", card, re.M) == list(SECTIONS)
    for recipe in re.findall(r"experiment=([\w/]+)", card):
        assert (ROOT / f"experiments/configs/experiment/{recipe}.yaml").is_file(), recipe


def shell_blocks():
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            yield pytest.param(block, id=f"{page.name}:{block.splitlines()[0][:40]}")


@pytest.mark.parametrize("block", shell_blocks())
def test_shell_blocks_work_in_zsh(block):
    """Interactive zsh takes no comments, expands brackets and ~name, and splits no variables."""
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", block)
    assert not re.search(r"(^|\s)#", unquoted), "a comment"
    assert not re.search(r"[\[\]*?]", unquoted.replace("$@", "")), "brackets or globs"
    assert not re.search(r"\s~\w", unquoted), "a ~name"
    assert not re.search(r"^\$\w+ ", unquoted, re.M), "a command in a variable"
