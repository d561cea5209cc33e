"""Photographs, and what is done to them in tests of perceptual metrics; all are uint8 (H, W, 3)."""

import numpy as np
from scipy import ndimage
from skimage import data

CROPS = {
    "astronaut": (slice(0, 256), slice(100, 356)),
    "chelsea": (slice(0, 256), slice(0, 256)),
}


def crop(name: str) -> np.ndarray:
    return getattr(data, name)()[CROPS[name]]


def to_bytes(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def quantised(x: np.ndarray, step: int) -> np.ndarray:
    return x // step * step


def box_mean(x: np.ndarray) -> np.ndarray:
    mean = ndimage.uniform_filter(x.astype(np.float64), (5, 5, 1), mode="nearest")
    return np.floor(mean + 0.5).astype(np.uint8)


def noisy(x: np.ndarray, deviation: float, seed: int = 7) -> np.ndarray:
    return to_bytes(x + np.random.RandomState(seed).normal(0, deviation, x.shape))


def blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    return to_bytes(_low(x, sigma))


def with_foreign_texture(x: np.ndarray, other: np.ndarray, sigma: float) -> np.ndarray:
    """What a blur leaves of one photograph, and what it takes away from another."""
    texture = np.tile(other - _low(other, sigma), (3, 3, 1))[: x.shape[0], : x.shape[1]]
    return to_bytes(_low(x, sigma) + texture)


def _low(x: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(x.astype(np.float64), (sigma, sigma, 0), mode="nearest")


NAMED = {
    "steps of 48": lambda x: quantised(x, 48),
    "box mean of 5x5, edges repeated, rounded half up": box_mean,
    "normal noise of deviation 20 by numpy.random.RandomState(7), rounded, clipped": (
        lambda x: noisy(x, 20)
    ),
    "rolled right by one pixel": lambda x: np.roll(x, 1, axis=1),
}
"""Those that reference outputs name."""
