"""How long the decoder may take: the presets of Table 2."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.guidance import dps
from diffcodec.diffusion.sampler import SAMPLERS, Noise, consistency, find_sampler
from diffcodec.diffusion.schedule import karras_sigmas

DDPM = "ddpm"
SOLVERS = ("consistency", *SAMPLERS, DDPM)
STARTS = ("picture", "noise")
TARGETS = ("recoded", "decoded")
RESTART_GROWTH = 1.5  # of zeta (Xu et al. 2024, the authors' test program)
MOST_ODE_STEPS = 20


@dataclass(frozen=True)
class Preset:
    """One way back from noise to a picture.

    Attributes:
        solver: `consistency` (fast), `dpmpp_2m` or `ddim` (the probability-flow ODE), `euler_sde`
            (the reverse SDE); None is dpmpp_2m up to 20 steps and euler_sde beyond (Sec. 3.2:
            few steps are limited by discretisation, many by the network). `ddpm` goes through the
            timesteps of the network's own process, with its variance where it has learned one,
            x0_hat clamped, and zeta a step of the variance-preserving x_t, as IVC does.
        steps: evaluations of the network.
        sigma_min: the last noise level above 0, in the prior's space; 0.002 is EDM's (Karras et al.
            2022, Table 1). The lower it is, the farther dpmpp_2m extrapolates with few steps, and
            the more texture it makes.
        rho: how densely the low levels are covered, see `karras_sigmas`. What makes pictures from
            pure noise has 7; from the middle levels that the enhancer starts at, few steps keep
            more texture where they are evenly spaced.
        zeta: step size of the constraint through the base codec (slow); 0 is none.
        target: what the base makes of the estimate is compared with: `recoded`, what it makes of
            its own picture (Eq. 17), or `decoded`, that picture (Xu et al. 2024).
        start: `picture`, the base's with noise; or `noise`, pure noise at the highest level that
            the prior knows, as IVC starts (Xu et al., ICLR 2024), which has no strength.
        restart_above: sample again, with a zeta 1.5 times as large, while the distance of the last
            estimate is above this, as IVC's test program does (20); None is once. The last sample
            is taken, and all of them are part of the decoding time.
        max_restarts: samples in all, at most.

    Raises:
        ValueError: one of these is not among its choices, a constraint on another solver than
            euler_sde or ddpm, ddpm without one or not from pure noise, or a restart without one.
    """

    solver: str | None = None
    steps: int = 1
    sigma_min: float = 0.002
    rho: float = 7.0
    zeta: float = 0.0
    target: str = "recoded"
    start: str = "picture"
    restart_above: float | None = None
    max_restarts: int = 10

    def __post_init__(self) -> None:
        if self.solver is not None and self.solver not in SOLVERS:
            raise ValueError(f"unknown solver {self.solver!r}, choose from {', '.join(SOLVERS)}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not self.sigma_min > 0:
            raise ValueError(f"sigma_min must be above 0, got {self.sigma_min}")
        if not self.rho >= 1:
            raise ValueError(f"rho must be at least 1, got {self.rho}")
        if self.zeta < 0:
            raise ValueError(f"zeta must be at least 0, got {self.zeta}")
        if self.zeta and self.method not in ("euler_sde", DDPM):
            raise ValueError(
                f"zeta={self.zeta:g} needs solver=euler_sde or ddpm, not {self.method} with "
                f"{self.steps} steps"
            )
        if self.target not in TARGETS:
            raise ValueError(f"unknown target {self.target!r}, choose from {', '.join(TARGETS)}")
        if self.start not in STARTS:
            raise ValueError(f"unknown start {self.start!r}, choose from {', '.join(STARTS)}")
        if self.method == DDPM and not (self.zeta and self.from_noise):
            raise ValueError(f"solver={DDPM} needs zeta above 0 and start=noise")
        if self.restart_above is not None and not self.zeta:
            raise ValueError("restart_above is of a constraint: give zeta, too")
        if self.max_restarts < 1:
            raise ValueError(f"max_restarts must be at least 1, got {self.max_restarts}")

    @property
    def from_noise(self) -> bool:
        """Whether it starts from pure noise rather than from the base's picture."""
        return self.start == "noise"

    @property
    def method(self) -> str:
        """The solver, chosen by the number of steps where none is given."""
        if self.solver is not None:
            return self.solver
        return "dpmpp_2m" if self.steps <= MOST_ODE_STEPS else "euler_sde"

    @property
    def needs_consistency(self) -> bool:
        """Whether it evaluates the consistency model rather than the denoiser."""
        return self.method == "consistency"

    def solve(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        *,
        noise: Noise,
        distance: Callable[[Tensor], Tensor] | None = None,
        sigmas: Tensor | None = None,
    ) -> Tensor:
        """Lead a noisy image back to no noise (Eq. 11).

        Args:
            denoiser: D(x; sigma), or the consistency model for `consistency`.
            x: the noisy image, (1, …); it may be overwritten.
            sigma: its noise level.
            noise: of the solvers that add some.
            distance: an estimate of the image -> how far it is from the constraint, (); needed
                where zeta > 0, and then gradients must be enabled.
            sigmas: noise levels to go down; None is from sigma, by sigma_min and rho.
        """
        if sigmas is None:
            sigmas = karras_sigmas(sigma, self.steps, sigma_min=self.sigma_min, rho=self.rho)
        if self.zeta:
            assert distance is not None
            constraint: Any = {"distance": distance, "zeta": self.zeta}
            of_vp = self.method == DDPM
            return dps(denoiser, x, sigmas, noise=noise, of_vp=of_vp, **constraint)
        if self.method == "consistency":
            return consistency(denoiser, x, sigmas, noise=noise)
        return find_sampler(self.method)(denoiser, x, sigmas, noise=noise, overwrite=True)
