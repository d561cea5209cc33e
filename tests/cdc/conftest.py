import os
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from diffcodec.cdc import CDC
from tests.cdc.tiny import build

# By its folder or, where a checkout lies elsewhere, by the environment.
SHARED = Path(os.environ.get("DIFFCODEC_SHARED", Path(__file__).parents[3] / "shared"))


class Reference:
    """Random weights in a released layout, and what the authors' code computes with them."""

    def __init__(self, prediction: str) -> None:
        name = {"x0": "x", "eps": "eps"}[prediction]
        self.prediction = prediction
        self.path = SHARED / "reference" / "cdc" / f"{name}_dim8_weights.safetensors"
        if not self.path.is_file():
            pytest.skip(f"no reference outputs at {self.path} (set DIFFCODEC_SHARED)")
        self.outputs = load_file(self.path.with_name(f"{name}_dim8_outputs.safetensors"))

    def codec(self, **options) -> CDC:
        return CDC(self.prediction, width=8, weights=str(self.path), **options).eval()

    @property
    def x(self) -> Tensor:
        """The image in [-1, 1]."""
        return self.outputs["image_01"] * 2 - 1

    def matching(self, prefix: str) -> dict[str, Tensor]:
        """Outputs whose names start so, by the rest of their names; there is at least one."""
        found = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.outputs.items()
            if name.startswith(prefix)
        }
        assert found
        return found


@pytest.fixture(scope="session", params=["x0", "eps"])
def reference(request) -> Reference:
    return Reference(request.param)


@pytest.fixture(scope="session")
def reference_x0() -> Reference:
    return Reference("x0")


@pytest.fixture(params=["x0", "eps"])
def codec(request) -> CDC:
    """A tiny codec whose latents are not all zero."""
    return build(request.param)
