"""Decoder presets, which trade decoding time for quality (Table 2)."""

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
RESTART_GROWTH = 1.5  # factor on zeta (Xu et al. 2024, the authors' test program)
MOST_ODE_STEPS = 20


@dataclass(frozen=True)
class Preset:
    """Settings of the denoising process.

    Attributes:
        solver: `consistency` (fast), `dpmpp_2m` or `ddim` (probability-flow ODE), `euler_sde`
            (reverse SDE), or `ddpm`; None selects dpmpp_2m up to 20 steps and euler_sde beyond
            (Sec. 3.2: discretization limits few steps, the network limits many). `ddpm` follows
            IVC: it uses the timesteps and any learned variance of the network's own process, clamps
            x0_hat, and applies zeta to the variance-preserving x_t.
        steps: number of network evaluations.
        sigma_min: last noise level above 0, in the prior's space; EDM uses 0.002 (Karras et al.
            2022, Table 1). With few steps, a lower value makes dpmpp_2m extrapolate farther and
            produce more texture.
        rho: density of the low noise levels, see `karras_sigmas`. 7 suits sampling from pure noise;
            from the enhancer's intermediate levels, few evenly spaced steps (1) keep more texture.
        zeta: step size of the constraint through the base codec (slow); 0 disables the constraint.
        target: image that the constraint compares the base's coding of the estimate with:
            `decoded`, the base's reconstruction (Xu et al. 2024), or `recoded`, this reconstruction
            coded once more by the base (Eq. 17).
        start: `picture`, the base's reconstruction plus noise; or `noise`, pure noise at the
            prior's highest level, as in IVC (Xu et al., ICLR 2024), without a strength.
        restart_above: distance of the last estimate above which sampling restarts with a zeta 1.5
            times as large; IVC's test program uses 20, None never restarts. The last sample is
            returned, and decoding time includes all samples.
        max_restarts: maximum number of samples.

    Raises:
        ValueError: a value is unknown or out of range; a constraint without euler_sde or ddpm; ddpm
            without a constraint or pure noise; or a restart without a constraint.
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
            raise ValueError("restart_above needs a constraint: pass zeta above 0")
        if self.max_restarts < 1:
            raise ValueError(f"max_restarts must be at least 1, got {self.max_restarts}")

    @property
    def from_noise(self) -> bool:
        """Whether sampling starts from pure noise instead of the base's reconstruction."""
        return self.start == "noise"

    @property
    def method(self) -> str:
        """The solver; if none is given, the number of steps selects it."""
        if self.solver is not None:
            return self.solver
        return "dpmpp_2m" if self.steps <= MOST_ODE_STEPS else "euler_sde"

    @property
    def needs_consistency(self) -> bool:
        """Whether the preset evaluates the consistency model instead of the denoiser."""
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
        """Denoise an image (Eq. 11).

        Args:
            denoiser: D(x; sigma), or the consistency model for `consistency`.
            x: noisy image, (1, …); it may be overwritten.
            sigma: noise level of x.
            noise: noise source of the stochastic solvers.
            distance: function of the estimated image that returns its distance from the constraint,
                (). Required for zeta > 0, which also requires enabled gradients.
            sigmas: falling noise levels; None computes them from sigma, sigma_min and rho.
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
