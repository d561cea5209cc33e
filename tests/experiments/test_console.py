import subprocess
import sys

import pytest

from experiments import console


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["diffcodec", *arguments])
    console.main()


def test_help_lists_the_commands(monkeypatch, capsys):
    call(monkeypatch, "--help")
    output = capsys.readouterr().out
    assert all(command in output for command in console.COMMANDS)


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
