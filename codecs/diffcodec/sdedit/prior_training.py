"""Training of the small prior: a denoiser with EDM's loss, then its consistency model.

Neither is a codec. Validation measures the PSNR of one-step denoising at fixed noise levels in
[-1, 1], with the same noise every time.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from diffcodec.coding.bitstream import derive_seed
from diffcodec.diffusion.denoiser import ConsistencyDenoiser, Denoiser, EDMDenoiser, like
from diffcodec.diffusion.sampler import dpmpp_2m, seeded_noise
from diffcodec.diffusion.schedule import karras_sigmas
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.small_prior import SIGMA_MIN
from diffcodec.sdedit.small_unet import SmallUNet
from diffcodec.training.perceptual import PerceptualLoss

DISTANCES = ("squared", "perceptual")


class DenoiserTraining(LightningModule):
    """Trains the denoiser (Karras et al. 2022, Eq. 8 and Table 1).

    EDM's noise levels are chosen for sampling from pure noise. The enhancer starts from a
    reconstruction, whose error doubles at noise levels of 0.02 to 0.6 in [-1, 1] for rates of 0.1
    to 2 bits per pixel. Training therefore draws ln(sigma) ~ N(p_mean, p_std^2) with a median of
    0.14 instead of 0.3.

    Args:
        network: network to train.
        p_mean, p_std: mean and standard deviation of ln(sigma) in training.
        sigmas: noise levels in [-1, 1] for validation.
        lr, warmup_steps: learning rate and warm-up steps of Adam; the learning rate falls to zero
            along a cosine.

    Attributes:
        product: the network that is exported after training.

    Raises:
        ValueError: a noise level is not positive.
    """

    def __init__(
        self,
        network: SmallUNet,
        *,
        p_mean: float = -2.0,
        p_std: float = 1.0,
        sigmas: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
        lr: float = 2e-3,
        warmup_steps: int = 200,
    ) -> None:
        if not all(sigma > 0 for sigma in sigmas):
            raise ValueError(f"sigmas must be above 0, got {list(sigmas)}")
        super().__init__()
        self.sigmas = tuple(float(sigma) for sigma in sigmas)
        self._psnr: Any = nn.ModuleList(MeanMetric() for _ in self.sigmas)
        self.network = network
        self.p_mean, self.p_std = p_mean, p_std
        self.lr, self.warmup_steps = lr, warmup_steps

    @property
    def denoiser(self) -> EDMDenoiser:
        """The denoiser around the trained network."""
        return EDMDenoiser(self.network)

    @property
    def product(self) -> SmallUNet:
        return self.network

    def loss(self, x: Tensor) -> Tensor:
        """EDM's loss for images (B, 3, H, W) in [-1, 1], at random noise levels."""
        sigma = (self.p_mean + self.p_std * torch.randn(len(x), device=x.device)).exp()
        loss, _ = self.denoiser.loss(x, torch.randn_like(x), sigma)
        return loss.mean()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(pad_to_multiple(batch["image"] * 2 - 1, self.network.multiple))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: float, seed: int) -> Tensor:
        """Add noise to an image (1, 3, H, W) in [0, 1] of any size, and denoise it in one step.

        Runs in float32 even if training uses half precision.

        Args:
            x: the image.
            sigma: noise level in [-1, 1].
            seed: seed of the noise.
        """
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x * 2 - 1, self.network.multiple)
        noisy = padded + sigma * seeded_noise(seed)(padded)
        with torch.autocast(x.device.type, enabled=False):
            x0 = self.denoiser(noisy, torch.tensor(sigma))
        return ((x0[..., :height, :width] + 1) / 2).clamp(0, 1)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if not len(batch["index"]):  # none of its images could be read
            return
        for index, x in zip(batch["index"].tolist(), batch["image"].split(1), strict=True):
            for sigma, metric in zip(self.sigmas, self._psnr, strict=True):
                x0 = self.denoise(x, sigma, derive_seed([f"validation {index}".encode()]))
                metric.update(-10 * (x0 - x).square().mean().log10())
        for sigma, metric in zip(self.sigmas, self._psnr, strict=True):
            self.log(f"val/psnr@sigma={sigma:g}", metric)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr)
        steps = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            progress = 0.0 if math.isinf(steps) else min(1.0, step / steps)
            warmth = min(1.0, (step + 1) / max(1, self.warmup_steps))
            return warmth * (1 + math.cos(math.pi * progress)) / 2

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class ConsistencyTraining(DenoiserTraining):
    """Distills a denoiser into its consistency model.

    The consistency function f(x, sigma) must be equal at both ends of a step along the
    probability-flow ODE, and the identity at the end of the ODE. There are two kinds of targets:

    - Consistency distillation (Song et al. 2023, Algorithm 2): one Heun step between neighbouring
      levels. The target is f after the step, computed by the network itself without gradient (Song
      & Dhariwal 2024).
    - Knowledge distillation (Luhman & Luhman 2021): the target is the teacher's sample, after all
      its steps down to 0. It does not propagate errors of f from level to level, but needs more
      evaluations of the teacher.

    The loss is the squared error in units of the network's output, or a perceptual distance as in
    Song et al.

    Args:
        network: network to train, preferably initialized with the teacher's weights.
        teacher: trained denoiser.
        walk_steps: null for consistency distillation, or the number of the teacher's steps for
            knowledge distillation, by DPM-Solver++(2M) on evenly spaced levels, as in the preset
            medium.
        walk_end: last level above 0 of the teacher's steps.
        max_sigma: highest noise level.
        num_levels: number of levels for consistency distillation, spaced as EDM's between 0.002 and
            max_sigma.
        distance: `squared`, in units of the network's output, or `perceptual`.
        perceptual, vgg_weights: settings of the perceptual distance, see `PerceptualLoss`.
        p_mean, p_std: mean and standard deviation of ln(sigma), which set how often each level is
            drawn.
        sigmas, lr, warmup_steps: see `DenoiserTraining`.

    Raises:
        ValueError: a level is not positive, there are too few levels, walk_end is not below
            max_sigma, the distance is unknown, or the weights of the perceptual distance are
            missing.
    """

    def __init__(
        self,
        network: SmallUNet,
        teacher: SmallUNet,
        *,
        walk_steps: int | None = None,
        walk_end: float = Preset.sigma_min,
        max_sigma: float = 1.0,
        num_levels: int = 12,
        distance: str = "squared",
        perceptual: str | None = None,
        vgg_weights: str | None = None,
        p_mean: float = -1.5,
        p_std: float = 1.0,
        sigmas: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
        lr: float = 5e-4,
        warmup_steps: int = 200,
    ) -> None:
        if num_levels < 2:
            raise ValueError(f"num_levels must be at least 2, got {num_levels}")
        if walk_steps is not None and walk_steps < 2:
            raise ValueError(f"walk_steps must be null or at least 2, got {walk_steps}")
        if distance not in DISTANCES:
            raise ValueError(f"unknown distance {distance!r}, choose from {DISTANCES}")
        if not 0 < walk_end < max_sigma:
            raise ValueError(
                f"walk_end must be above 0 and below max_sigma={max_sigma:g}, got {walk_end:g}"
            )
        super().__init__(
            network, p_mean=p_mean, p_std=p_std, sigmas=sigmas, lr=lr, warmup_steps=warmup_steps
        )
        self.teacher: SmallUNet = teacher.requires_grad_(False)
        self.walk_steps, self.walk_end = walk_steps, walk_end
        self.max_sigma = max_sigma
        self._perceptual = None
        if distance == "perceptual":
            self._perceptual = PerceptualLoss(
                perceptual, wanted_by="part.distance=perceptual", vgg_weights=vgg_weights
            )
        levels = karras_sigmas(max_sigma, num_levels, sigma_min=SIGMA_MIN)[:-1].flip(0)
        self._levels = levels.float()

    @property
    def denoiser(self) -> ConsistencyDenoiser:
        return ConsistencyDenoiser(self.network, sigma_min=SIGMA_MIN)

    def loss(self, x: Tensor) -> Tensor:
        """The distillation loss for images (B, 3, H, W) in [-1, 1], at random levels."""
        teacher = EDMDenoiser(self.teacher)
        if self.walk_steps is None:
            sigma, sigma_next = self._draw_neighbours(x)
            noisy = x + like(x, sigma) * torch.randn_like(x)
            with torch.no_grad():
                target = self.denoiser(_heun_step(teacher, noisy, sigma, sigma_next), sigma_next)
        else:
            sigma = (self.p_mean + self.p_std * torch.randn(len(x))).exp()
            sigma = sigma.clamp(self.walk_end, self.max_sigma).to(x.device)
            noisy = x + like(x, sigma) * torch.randn_like(x)
            with torch.no_grad():
                target = _walk(teacher, noisy, sigma, self.walk_steps, self.walk_end)
        estimate = self.denoiser(noisy, sigma)
        if self._perceptual is not None:
            return self._perceptual(estimate, target)
        error = (estimate - target).square().mean((1, 2, 3))
        _, c_out, _ = self.denoiser.scalings(sigma)
        return (error / c_out**2).mean()

    def _draw_neighbours(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a level and the next lower level for each image of x, (B,) each."""
        levels = self._levels.to(x.device)
        # With few levels, weight each bin by its mass under the normal distribution of ln(sigma).
        edges = (levels.log() - self.p_mean) / (self.p_std * math.sqrt(2))
        share = torch.erf(edges[1:]) - torch.erf(edges[:-1])
        index = torch.multinomial(share.clamp(min=1e-6), len(x), replacement=True)
        return levels[index + 1], levels[index]


def _heun_step(denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One second-order step of dx/dsigma = (x - D) / sigma, with a level per image (B,)."""
    slope = (x - denoiser(x, sigma)) / like(x, sigma)
    step = like(x, sigma_next - sigma)
    x_next = x + step * slope
    slope_next = (x_next - denoiser(x_next, sigma_next)) / like(x, sigma_next)
    return x + step * (slope + slope_next) / 2


def _walk(denoiser: Denoiser, x: Tensor, sigma: Tensor, steps: int, end: float) -> Tensor:
    """Denoise images with a level each (B,), by the solver of the preset medium."""
    levels = [karras_sigmas(float(s), steps, sigma_min=end, rho=1.0) for s in sigma]
    return dpmpp_2m(denoiser, x, torch.stack(levels, dim=1).to(x.device))
