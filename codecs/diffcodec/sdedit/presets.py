"""How long the decoder may take: the presets of Table 2."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.guidance import dps
from diffcodec.diffusion.sampler import SAMPLERS, Noise, consistency, find_sampler
from diffcodec.diffusion.schedule import karras_sigmas

SOLVERS = ("consistency", *SAMPLERS)
STARTS = ("picture", "noise")
MOST_ODE_STEPS = 20


@dataclass(frozen=True)
class Preset:
    """One way back from noise to a picture.

    Attributes:
        solver: `consistency` (fast), `dpmpp_2m` or `ddim` (the probability-flow ODE), `euler_sde`
            (the reverse SDE); None is dpmpp_2m up to 20 steps and euler_sde beyond (Sec. 3.2:
            few steps are limited by discretisation, many by the network).
        steps: evaluations of the network.
        sigma_min: the last noise level above 0, in the prior's space; 0.002 is EDM's (Karras et al.
            2022, Table 1). The lower it is, the farther dpmpp_2m extrapolates with few steps, and
            the more texture it makes.
        rho: how densely the low levels are covered, see `karras_sigmas`. What makes pictures from
            pure noise has 7; from the middle levels that the enhancer starts at, few steps keep
            more texture where they are evenly spaced.
        zeta: step size of the constraint through the base codec (slow); 0 is none.
        start: `picture`, the base's with noise; or `noise`, pure noise at the highest level that
            the prior knows, as IVC starts (Xu et al., ICLR 2024), which has no strength.
        restart_above: sample again while the constraint's distance is above this, as IVC's test
            program does (20); None is once. The best one is taken, and all of them are part of the
            decoding time.
        max_restarts: samples in all, at most.

    Raises:
        ValueError: one of these is not among its choices, a constraint on another solver than
            euler_sde, or a restart without one.
    """

    solver: str | None = None
    steps: int = 1
    sigma_min: float = 0.002
    rho: float = 7.0
    zeta: float = 0.0
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
        if self.zeta and self.method != "euler_sde":
            raise ValueError(
                f"zeta={self.zeta:g} needs solver=euler_sde, not {self.method} with {self.steps} "
                "steps"
            )

        if self.start not in STARTS:
            raise ValueError(f"unknown start {self.start!r}, choose from {', '.join(STARTS)}")
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
    ) -> Tensor:
        """Lead a noisy image back to no noise (Eq. 11).

        Args:
            denoiser: D(x; sigma), or the consistency model for `consistency`.
            x: the noisy image, (1, …); it may be overwritten.
            sigma: its noise level.
            noise: of the solvers that add some.
            distance: an estimate of the image -> how far it is from the constraint, (); needed
                where zeta > 0, and then gradients must be enabled.
        """
        sigmas = karras_sigmas(sigma, self.steps, sigma_min=self.sigma_min, rho=self.rho)
        if self.zeta:
            assert distance is not None
            return dps(denoiser, x, sigmas, distance=distance, zeta=self.zeta, noise=noise)
        if self.method == "consistency":
            return consistency(denoiser, x, sigmas, noise=noise)
        return find_sampler(self.method)(denoiser, x, sigmas, noise=noise, overwrite=True)
