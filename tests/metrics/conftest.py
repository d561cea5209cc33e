import pytest
import torch
from skimage import data


@pytest.fixture
def pair():
    """Two uint8 images (3, H, W), a photograph and a noisy copy."""
    x = torch.from_numpy(data.chelsea()).permute(2, 0, 1)
    noise = torch.randint(-9, 10, x.shape, generator=torch.Generator().manual_seed(0))
    return x, (x.int() + noise).clamp(0, 255).byte()
