"""Decode streams in a process that knows nothing but a config, as a receiver does.

One line of JSON on the standard input is a request, and one on the standard output its answer:

    {"overrides": ["codec=jpeg"], "state": null, "jobs": [["point", "in.bin", "out.pt"], …]}
    {"error": null}

`state` is a file with the state dict of a codec whose weights are not in its config.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class FreshDecoder:
    """The other process, started once for many codecs, because its imports take seconds.

    It uses one thread: who compares pictures bit for bit has to use one, too.

    Args:
        environment: variables that it has beside those of this process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        own = {"OMP_NUM_THREADS": "1", **(environment or {})}
        paths = [str(ROOT), str(ROOT / "codecs"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **own, "PYTHONPATH": os.pathsep.join(paths)},
            text=True,
        )

    def decode(
        self, overrides: list[str], state: Path | None, jobs: list[tuple[str, Path, Path]]
    ) -> None:
        """Build the codec of a config and decode with it.

        Args:
            overrides: what makes the config.
            state: state dict to load, or None.
            jobs: the name of an operating point, the stream's file, and the file to which its
                picture is written, a tensor (1, 3, H, W).

        Raises:
            RuntimeError: the process could not.
        """
        paths = [[point, str(stream), str(picture)] for point, stream, picture in jobs]
        request = {"overrides": overrides, "state": state and str(state), "jobs": paths}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the decoding process ended with {self._process.wait()}")
        error = json.loads(answer)["error"]
        if error is not None:
            raise RuntimeError(error)

    def close(self) -> None:
        self._process.communicate()  # closes its input, at whose end it leaves


def decode(request: dict[str, Any]) -> None:
    import torch
    from hydra.utils import instantiate

    from experiments.cli import compose_config

    codec = instantiate(compose_config(request["overrides"]).codec).eval()
    if request["state"] is not None:
        codec.load_state_dict(torch.load(request["state"], weights_only=True))
    for point, stream, picture in request["jobs"]:
        torch.save(codec.decompress([Path(stream).read_bytes()], point), picture)


def main() -> None:
    # Answers go where the standard output went; what libraries print goes to the standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        error = None
        try:
            decode(json.loads(line))
        except Exception:
            error = traceback.format_exc()
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
