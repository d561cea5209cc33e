from functools import partial

import pytest

from tests.zero_shot.tiny import tiny_codec


@pytest.fixture(scope="session")
def make_codec():
    """Options -> a tiny codec in eval mode; its weights are random, the same every time."""
    return partial(tiny_codec, "diffc")
