"""Runs `python -m MODULE …` in a process of its own that has the libraries imported already.

Importing them takes seconds in each process, which is most of what a small run takes.
"""

import atexit
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHILD = "warm_child"
# Not wandb, which makes a folder when it is imported and removes it at its end.
LIBRARIES = ["compressai.models", "diffusers", "lightning.pytorch", "torchmetrics.image"]

_context = get_context("forkserver")  # the server runs nothing, so that it has no threads to lose
_context.set_forkserver_preload(LIBRARIES)


def run_module(
    module: str,
    *arguments: str,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    timeout: float = 500,
) -> subprocess.CompletedProcess[str]:
    """The finished process of `python -m MODULE ARGUMENT …`.

    Args:
        module, arguments: what is run.
        cwd: its working directory.
        env: variables beside those of this process.
        timeout: seconds that it may take.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("out", "err")]
        job = (module, arguments, str(cwd), {**os.environ, **(env or {})}, *paths)
        # By the file's path: as `tests.warm` it could not be imported, if a library has a `tests`.
        process = _context.Process(target=runpy.run_path, args=(__file__, {"JOB": job}, CHILD))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired([module, *arguments], timeout)
        out, err = (path.read_text() for path in paths)
    return subprocess.CompletedProcess([module, *arguments], process.exitcode or 0, out, err)


def _main(
    module: str,
    arguments: Sequence[str],
    cwd: str,
    environment: dict[str, str],
    out: Path,
    err: Path,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    os.setsid()
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(number, stream.fileno())
        os.close(number)
    sys.argv = [module, *arguments]
    sys.path[:0] = [str(ROOT), str(ROOT / "codecs")]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a child of `multiprocessing` leaves out


if __name__ == CHILD:
    _main(*JOB)  # noqa: F821
