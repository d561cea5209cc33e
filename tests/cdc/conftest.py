import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffcodec.cdc import CDC
from tests.cdc import drawn
from tests.cdc.tiny import build

# By its folder or, where a checkout lies elsewhere, by the environment.
SHARED = Path(os.environ.get("DIFFCODEC_SHARED", Path(__file__).parents[3] / "shared"))
FILE_NAMES = {"x0": "x", "eps": "eps"}


class Reference:
    """Random weights in a released layout, and what the authors' code computes with them.

    Args:
        prediction: `x0` or `eps`.
        width: of the model.
        path: the weights.
        outputs: what the authors' code computes, by its name.
        five_step_tolerance: relative error that a sample of five steps may have; others 1e-4.
    """

    def __init__(
        self,
        prediction: str,
        width: int,
        path: Path,
        outputs: Path,
        five_step_tolerance: float = 1e-4,
    ) -> None:
        self.prediction = prediction
        self.width = width
        self.path = path
        self.outputs = load_file(outputs)
        self.five_step_tolerance = five_step_tolerance

    def codec(self, **options) -> CDC:
        options = {"width": self.width, "weights": str(self.path), **options}
        return CDC(self.prediction, **options).eval()

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


def drawn_reference(prediction: str, folder: Path) -> Reference:
    """The small reference that is part of the tests."""
    path = folder / f"{prediction}.safetensors"
    save_file(drawn.drawn_state(prediction), path)
    outputs = drawn.FOLDER / f"{FILE_NAMES[prediction]}_drawn4_outputs.safetensors"
    return Reference(prediction, drawn.WIDTH, path, outputs, five_step_tolerance=2e-5)


def stored_reference(prediction: str) -> Reference:
    """The larger reference, with more outputs, that lies beside the project."""
    name = FILE_NAMES[prediction]
    path = SHARED / "reference" / "cdc" / f"{name}_dim8_weights.safetensors"
    if not path.is_file():
        pytest.skip(f"no reference outputs at {path} (set DIFFCODEC_SHARED)")
    outputs = path.with_name(f"{name}_dim8_outputs.safetensors")
    return Reference(prediction, 8, path, outputs)


@pytest.fixture(scope="session", params=["drawn-x0", "drawn-eps", "stored-x0", "stored-eps"])
def reference(request, tmp_path_factory) -> Reference:
    kind, prediction = request.param.split("-")
    if kind == "drawn":
        return drawn_reference(prediction, tmp_path_factory.mktemp("drawn"))
    return stored_reference(prediction)


@pytest.fixture(scope="session")
def drawn_reference_x0(tmp_path_factory) -> Reference:
    return drawn_reference("x0", tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session", params=["x0", "eps"])
def larger_reference(request) -> Reference:
    return stored_reference(request.param)


@pytest.fixture(scope="session")
def larger_reference_x0() -> Reference:
    return stored_reference("x0")


@pytest.fixture(params=["x0", "eps"])
def codec(request) -> CDC:
    """A tiny codec whose latents are not all zero."""
    return build(request.param)
