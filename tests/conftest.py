import os
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

ROOT = Path(__file__).parents[1]

# Nothing here may reach an account or the network by accident.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Each worker of `make test` has a core, and so has what it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take a minute first: workers then end at about the same time."""
    items.sort(
        key=lambda item: (
            not (item.path.parent.name == "experiments" or item.path.name == "test_contract.py")
        )
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data and reference outputs that lie beside the project, not in it."""
    path = Path(os.environ.get("DIFFCODEC_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no reference data at {path} (set DIFFCODEC_SHARED)")
    return path


@pytest.fixture(scope="session")
def photo() -> Tensor:
    """A photograph (1, 3, 512, 512) in [0, 1]."""
    return torch.from_numpy(np.array(data.astronaut())).permute(2, 0, 1)[None] / 255
