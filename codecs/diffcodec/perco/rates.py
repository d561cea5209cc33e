"""Rates of PerCo: the pixels per code and the size of the codebook."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

REFERENCE_SIDE = 512  # grids are named by their size for a 512x512 image
GRIDS = (64, 32, 16, 8)
GRID_STEPS = 50  # number of timesteps for fine-tuning (App. A)

# Spatial grid and codebook size of all models of the paper (Table 2).
TABLE_2 = (
    *("64x64/256", "64x64/64", "32x32/8196", "32x32/256"),
    *("16x16/1024", "8x8/1024", "8x8/256"),
)


@dataclass(frozen=True)
class Rate:
    """A rate with one of `num_codes` codes per square of 512 / `grid` pixels a side.

    Raises:
        ValueError: the grid is not one of `GRIDS`, or the codebook has fewer than two codes.
    """

    grid: int
    num_codes: int

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise ValueError(f"unknown grid {self.grid}, choose from {GRIDS}")
        if self.num_codes < 2:
            raise ValueError(f"a codebook has at least two codes, got {self.num_codes}")

    @property
    def name(self) -> str:
        """The name in Table 2: the grid for a 512x512 image and the size of the codebook."""
        return f"{self.grid}x{self.grid}/{self.num_codes}"

    @property
    def pixels_per_code(self) -> int:
        """Side of the square that one code covers, in pixels."""
        return REFERENCE_SIDE // self.grid

    @property
    def bpp(self) -> float:
        """Bits per pixel of uniformly coded codes, for images that divide into whole squares."""
        return math.log2(self.num_codes) / self.pixels_per_code**2

    @property
    def default_steps(self) -> int:
        """Number of decoding steps: 5 from 0.05 bpp on, else 20 (App. A)."""
        return 5 if self.bpp >= 0.05 else 20

    def code_shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of codes for an image of any size in pixels."""
        return -(-height // self.pixels_per_code), -(-width // self.pixels_per_code)


def parse_rate(rate: str | Sequence[int]) -> Rate:
    """Parse a rate such as `"16x16/1024"` or `[16, 1024]`.

    Raises:
        ValueError: it has another format; the message lists the paper's rates.
    """
    if isinstance(rate, str):
        match = re.fullmatch(r"(\d+)x(\d+)/(\d+)", rate)
        if match and match[1] == match[2]:
            return Rate(int(match[1]), int(match[3]))
    elif len(rate) == 2:
        return Rate(*map(int, rate))
    raise ValueError(f"{rate!r} is not a rate: pass GRIDxGRID/CODES such as {', '.join(TABLE_2)}")
