import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffcodec import __version__
from experiments import console

ROOT = Path(__file__).parents[2]


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["diffcodec", *arguments])
    console.main()


def test_help_lists_the_commands(monkeypatch, capsys):
    call(monkeypatch, "--help")
    output = capsys.readouterr().out
    assert all(command in output for command in console.COMMANDS)


def test_version_is_that_of_every_file_which_names_it(monkeypatch, capsys):
    call(monkeypatch, "--version")
    line = capsys.readouterr().out.strip()
    assert re.fullmatch(
        r"diffcodec [\d.]+, torch \S+, lightning \S+, compressai \S+, Python .+", line
    )
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert re.findall(r"^## \[(\d.+?)\]", changes, re.M)[0] == __version__


@pytest.mark.parametrize("arguments", [[], ["measure"]])
def test_without_a_known_command_the_choices_are_listed(monkeypatch, arguments):
    with pytest.raises(SystemExit, match="usage: diffcodec COMMAND"):
        call(monkeypatch, *arguments)


@pytest.mark.parametrize("command", sorted(console.COMMANDS))
def test_every_command_is_that_of_its_module(command):
    code = f"import sys; sys.argv = ['diffcodec', {command!r}, '--help']\n"
    code += "from experiments.console import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert command in done.stdout + done.stderr
