"""The command `diffcodec`: every command line of this project under one name.

diffcodec run codec=perco              as python -m experiments.run codec=perco
diffcodec compare 'outputs/**/curve.json'
diffcodec --version
"""

import platform
import runpy
import sys
from importlib.metadata import version

from diffcodec import __version__

COMMANDS = {
    "run": "measure a codec at every operating point, or train one",
    "doctor": "list what a run needs and what is missing",
    "info": "show the model card of shipped weights",
    "compare": "draw the curves of several runs, with a table and an HTML page",
    "benchmark": "measure how fast a codec is and where its time goes",
    "index": "write an index of a large image folder",
    "caption": "write captions of a data set's images",
    "calibrate": "calibrate the strengths of the enhancer",
    "compress": "compress images to streams",
    "decompress": "decompress streams to images",
}


def main() -> None:
    """Entry point of `diffcodec`."""
    name, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name in ("-V", "--version"):
        print(versions())
        return
    if name not in COMMANDS:
        told = "\n".join(f"  {command:<12}{what}" for command, what in COMMANDS.items())
        wrong = f"error: unknown command {name!r}\n" if name not in ("", "-h", "--help") else ""
        usage = f"usage: diffcodec COMMAND … | --version\n{told}"
        if wrong or not name:
            sys.exit(wrong + usage)
        print(usage)
        return
    sys.argv = [f"diffcodec {name}", *arguments]
    # As the main module, whose name Lightning starts further processes by.
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


def versions() -> str:
    """One line for bug reports: this project, the libraries it computes with, Python, machine."""
    libraries = (f"{name} {version(name)}" for name in ("torch", "lightning", "compressai"))
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return ", ".join((f"diffcodec {__version__}", *libraries, machine))
