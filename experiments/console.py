"""The command `diffcodec`: every command line of this project under one name.

diffcodec run codec=perco              as python -m experiments.run codec=perco
diffcodec compare outputs/**/curve.json
"""

import runpy
import sys

COMMANDS = {
    "run": "measure a codec at every operating point, or train one",
    "doctor": "say what a run needs from elsewhere, and what of it is here",
    "compare": "draw the curves of several runs, with a table and a page",
    "benchmark": "measure how fast a codec is, and where its time goes",
    "index": "list the images of a large folder, once",
    "caption": "write captions of a data set's images",
    "calibrate": "find the strengths of the enhancer",
    "compress": "turn images into streams",
    "decompress": "turn streams into pictures",
}


def main() -> None:
    """Entry point of `diffcodec`."""
    name, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name not in COMMANDS:
        told = "\n".join(f"  {command:<12}{what}" for command, what in COMMANDS.items())
        wrong = f"error: unknown command {name!r}\n" if name not in ("", "-h", "--help") else ""
        usage = f"usage: diffcodec COMMAND …\n{told}"
        if wrong or not name:
            sys.exit(wrong + usage)
        print(usage)
        return
    sys.argv = [f"diffcodec {name}", *arguments]
    # As the main module, whose name Lightning starts further processes by.
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
