from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SaveImage = Callable[..., Path]


@pytest.fixture
def save_image(tmp_path: Path) -> SaveImage:
    """Writes a grey picture of some size below tmp_path; `value` tells pictures apart."""

    def save(name: str, height: int = 16, width: int = 16, value: int = 100) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
        return path

    return save
