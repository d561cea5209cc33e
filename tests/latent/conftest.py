import pytest

from tests.latent.tiny import tiny_backbone


@pytest.fixture(scope="session")
def make_backbone():
    """Options -> a tiny backbone, the same weights every time."""
    return tiny_backbone
