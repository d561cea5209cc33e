"""CDC over any base codec: diffusion of the residual of that codec's reconstruction.

x -> base codec -> bytes
bytes -> base codec -> x_hat, y_hat, lmbda -> contexts
         gamma * noise, contexts -> sampler with the U-Net -> r_hat -> x_hat + r_hat
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from diffcodec.cdc.embedder import LATENT_STRIDE, ContextEmbedder
from diffcodec.cdc.layers import ContextTerms
from diffcodec.cdc.refiner import Refiner
from diffcodec.cdc.unet import UNet
from diffcodec.codec import Codec, Decoded
from diffcodec.coding.bitstream import derive_seed
from diffcodec.diffusion.denoiser import EDMDenoiser
from diffcodec.diffusion.sampler import find_sampler, seeded_noise
from diffcodec.diffusion.schedule import karras_sigmas
from diffcodec.diffusion.tiling import TiledDenoiser, check_window
from diffcodec.networks.padding import crop_center, pad_around
from diffcodec.networks.precision import check_precision, decoding_in
from diffcodec.points import Point, combine, listed, name_lines
from diffcodec.training.few_steps import Resampled
from diffcodec.training.optimization import warmed_up_adamw
from diffcodec.weights.loading import load_checkpoint, state_dict_of
from diffcodec.weights.model_folder import load_saved

WINDOW = 1024
STRIDE = 64  # pixels per value of the learned codecs' hyper-latents, along a side
PATCHES = (1, 2, 4, 8)
VALIDATION_LEVELS = 4


@dataclass
class Conditions:
    """The conditions of an image, which all decoding settings share.

    Attributes:
        x_hat: the base codec's reconstruction, padded, (1, 3, H, W) in [-1, 1].
        y_hat, lmbda: outputs of the base, as in `Decoded`.
        terms: result of `UNet.context_terms`. None for an image larger than the window, where the
            terms would take ten times the memory of the image.
    """

    x_hat: Tensor
    y_hat: Tensor | None
    lmbda: Tensor | None
    terms: list[ContextTerms] | None


class ResidualCDC(Codec):
    """CDC's conditional diffusion decoder over a base codec: one network for all its rates.

    The base codec and this codec write the same stream, and each decodes streams of the other. The
    decoder samples the residual r = x - x_hat of images in [-1, 1] from p(r | x_hat, y_hat, lmbda).
    EDM's preconditioning (Karras et al. 2022, Eq. 7 and Table 1), centered on x_hat, is

        D(x; sigma) = x_hat + c_skip r + c_out F(c_in r, ln(sigma) / 4; contexts),  r = x - x_hat

    with F(u, …) = a + b u, where the U-Net predicts a and b for every pixel and channel. Residuals
    are small in flat regions and large in texture. For a Gaussian residual of any standard
    deviation, the best estimate is a multiple of u. With the factor b, the network need not carry u
    through all its layers.

    As with `CDC`, the same bytes decode with any number of steps and any strength of the starting
    noise (gamma 0: faithful; 1: realistic). The design is close to DIRAC (Ghouse et al. 2023), a
    residual diffusion over a base codec, which has no public code.

    Args:
        compressor: the base codec, which stays frozen.
        width: number of channels of the U-Net's first stage.
        multipliers: channels of each resolution of the U-Net, as multiples of `width`.
        patch: side in pixels of the blocks that become channels of the U-Net's input: 1, 2, 4 or 8.
            On a CPU, 32 channels with patch 2 take 0.4 of the time of 16 channels with patch 1.
        refiner_width: number of channels of the convolutions at full resolution after the U-Net,
            see `Refiner`; 0 omits them.
        context_channels: number of channels of the finest context map.
        latents: use the base's y_hat as a context, if it has one.
        steps: number of decoding steps, one or several.
        gamma: standard deviation of the starting noise in units of sigma_max, one or several. The
            operating points are all combinations of the base's points, `steps` and `gamma`.
        sigma_max, sigma_min, rho: the sampler's noise levels; see `karras_sigmas`.
        sampler: `ddim`, `dpmpp_2m` or `euler_sde`. `dpmpp_2m` extrapolates between steps and leaves
            more noise unless the network was trained long.
        sigma_data: standard deviation of residuals in [-1, 1].
        p_mean, p_std: mean and standard deviation of ln(sigma) in training; null selects
            ln(sigma_data) as the mean.
        lr, weight_decay, warmup_steps: settings of AdamW; the learning rate falls linearly to zero
            after the warm-up.
        decode_precision: precision of the U-Net in decoding, `32` or `bf16`.
        compile: run `torch.compile` on the U-Net, which takes minutes once and speeds it up.
        window: side of a tile of the U-Net in pixels, a multiple of 64. On larger images, the
            estimates of overlapping tiles are blended at every step. The base has its own window.
        weights: null to train from scratch, or a source of `diffcodec.weights`, for the U-Net and
            the context embedder. The base has its own weights.

    Raises:
        ValueError: an argument is not among its choices, or the weights do not fit.
    """

    def __init__(
        self,
        compressor: Codec,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 3, 4, 5),
        patch: int = 2,
        refiner_width: int = 0,
        context_channels: int = 16,
        latents: bool = True,
        steps: int | Sequence[int] = 8,
        gamma: float | Sequence[float] = 0.0,
        sigma_max: float = 1.0,
        sigma_min: float = 0.004,
        rho: float = 7.0,
        sampler: str = "ddim",
        sigma_data: float = 0.08,
        p_mean: float | None = None,
        p_std: float = 1.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_steps: int = 200,
        decode_precision: str | int = "32",
        compile: bool = False,
        window: int = WINDOW,
        weights: str | None = None,
    ) -> None:
        check_window(window, STRIDE)
        find_sampler(sampler)  # raises on an unknown name
        for name, value in {"width": width, "context_channels": context_channels}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if refiner_width < 0:
            raise ValueError(f"refiner_width must be at least 0, got {refiner_width}")
        if patch not in PATCHES:
            raise ValueError(f"unknown patch {patch}, choose from {PATCHES}")
        coarsest = patch * 2 ** (len(multipliers) - 1)
        if not LATENT_STRIDE <= coarsest <= STRIDE:
            raise ValueError(
                f"{len(multipliers)} multipliers with patch={patch} downsample to 1/{coarsest:g}: "
                f"choose a number that ends between 1/{LATENT_STRIDE} and 1/{STRIDE}"
            )
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min must be above 0 and below sigma_max={sigma_max:g}, got {sigma_min:g}"
            )
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be above 0, got {sigma_data:g}")
        points = _build_points(compressor.points, steps, gamma)
        super().__init__([point for point, _ in points])
        self._base_points = {point.name: base_point for point, base_point in points}
        self.compressor = compressor.requires_grad_(False).eval()
        self.num_sections = compressor.num_sections
        self.reads_annotations = compressor.reads_annotations
        compressor.fingerprint()  # builds the entropy tables before the codec is copied
        self.patch = patch
        self.embedder = ContextEmbedder(
            context_channels,
            patch=patch,
            latent_channels=compressor.latent_channels if latents else 0,
        )
        self.unet = UNet(
            width,
            multipliers,
            self.embedder.context_channels,
            channels=3 * patch**2,
            out_channels=2 * 3 * patch**2,
            kernel_size=7 if patch == 1 else 3,
        )
        # An untrained decoder returns the base's reconstruction, the starting point of training.
        for parameter in self.unet.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.refiner = Refiner(refiner_width) if refiner_width else None
        self.sigma_max, self.sigma_min, self.rho = sigma_max, sigma_min, rho
        self.sampler = sampler
        self.sigma_data = sigma_data
        self.p_mean = math.log(sigma_data) if p_mean is None else p_mean
        self.p_std = p_std
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        self.decode_precision = check_precision(decode_precision)
        if compile:
            self.unet.compile()
        self.window = window
        self._validation_loss = MeanMetric()
        if weights is not None:
            self.load_weights(weights)

    def load_weights(self, source: str) -> None:
        """Load the U-Net, the context embedder and the refiner.

        Args:
            source: the checkpoint, as in `diffcodec.weights`. If it contains a base codec, that
                replaces the weights of this codec's base. If it contains no refiner, this codec's
                refiner keeps its weights.

        Raises:
            ValueError: the checkpoint cannot be loaded, or does not fit this configuration.
        """
        state = state_dict_of(load_checkpoint(source))
        if not any(name.startswith("embedder.") for name in state):
            raise ValueError(
                f"{source} is not a residual decoder over another codec: for CDC as in its paper "
                "use codec=cdc"
            )
        load_saved(self, state, source=source, optional=["refiner."])

    def base_point(self, point: Point) -> Point:
        """The base codec's operating point for a point of this codec."""
        return self._base_points[point.name]

    def load_point(self, point: Point) -> None:
        self.compressor.load_point(self.base_point(point))

    def prepare_points(self, points: Sequence[Point]) -> None:
        self.compressor.prepare_points([self.base_point(point) for point in points])

    def write_prepared(self, folder: str | Path) -> None:
        self.compressor.write_prepared(folder)

    def train(self, mode: bool = True) -> "ResidualCDC":
        super().train(mode)
        self.compressor.eval()
        return self

    def fingerprint(self) -> bytes:
        return self.compressor.fingerprint()

    def decoding_state(self) -> dict[str, Tensor]:
        return {f"compressor.{k}": v for k, v in self.compressor.decoding_state().items()}

    def seed_of(self, sections: Sequence[bytes]) -> int:
        return self.compressor.seed_of(sections)

    def num_part_bytes(self, sections: Sequence[bytes]) -> dict[str, int]:
        return self.compressor.num_part_bytes(sections)

    def encode(self, x: Tensor, point: Point, **more: Any) -> list[list[bytes]]:
        return self.compressor.encode(x, self.base_point(point), **more)

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        # One image at a time: the rounding of a convolution depends on its batch size.
        images, base_point = [], self.base_point(point)
        for payload, seed in zip(payloads, seeds, strict=True):
            make = partial(self._conditions, payload, height, width, seed, base_point)
            conditions = self.once((base_point.name, *payload), make)
            x_hat = self.sample(conditions, seed, point)
            images.append(crop_center(x_hat, height, width).add_(1).div_(2))
        return Decoded(torch.cat(images))

    def _conditions(
        self, payload: list[bytes], height: int, width: int, seed: int, base_point: Point
    ) -> Conditions:
        """Decode an image with the base, and compute the context terms."""
        decoded = self.compressor.decode([payload], height, width, [seed], base_point)
        decoded.x_hat = decoded.x_hat.clamp(0, 1)
        with decoding_in(self.decode_precision, decoded.x_hat.device):
            x_hat = padded_picture(decoded)
            terms = None
            if max(x_hat.shape[-2:]) <= self.window:
                contexts = self.embedder(x_hat, decoded.lmbda, decoded.y_hat)
                terms = self.unet.context_terms(contexts)
            return Conditions(x_hat, decoded.y_hat, decoded.lmbda, terms)

    def contexts(self, decoded: Decoded) -> tuple[Tensor, list[Tensor]]:
        """The base's reconstructions, padded and in [-1, 1], and their context maps."""
        x_hat = padded_picture(decoded)
        return x_hat, self.embedder(x_hat, decoded.lmbda, decoded.y_hat)

    def sample(self, conditions: Conditions, seed: int, point: Point) -> Tensor:
        """Sample an image (1, 3, H, W) in [-1, 1], with the point's number of steps and gamma."""
        x_hat, known = conditions.x_hat, conditions.terms
        sigmas = self._sigmas(point.setting("steps", int))
        # The base may have used this seed, so derive another one from it.
        noise = seeded_noise(derive_seed([b"residual", str(seed).encode()]))
        denoiser = self.denoiser()

        def of_tile(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
            terms, x_hat = known, condition["x_hat"]
            if terms is None:
                contexts = self.embedder(x_hat, conditions.lmbda, condition.get("y_hat"))
                terms = self.unet.context_terms(contexts)
            return denoiser(x, sigma, terms=terms, x_hat=x_hat)

        with_latents = {} if conditions.y_hat is None else {"y_hat": conditions.y_hat}
        tiled = TiledDenoiser(of_tile, self.window, multiple=STRIDE, spatial=["x_hat", "y_hat"])
        with decoding_in(self.decode_precision, x_hat.device):
            start = noise(x_hat).mul_(point.setting("gamma", float) * self.sigma_max)
            sample = find_sampler(self.sampler)
            r_hat = sample(
                tiled, start, sigmas, noise=noise, overwrite=True, x_hat=x_hat, **with_latents
            )
            return r_hat.add_(x_hat)

    def resample(self, batch: dict[str, Any], point: Point) -> Resampled:
        """Decode the images of a batch at a point; see `FewStepTraining`."""
        x = batch["image"]
        x_hat, contexts = self.contexts(self.compressor.simulate(x, self.base_point(point)))
        r_hat = find_sampler(self.sampler)(
            self.denoiser(),
            torch.randn_like(x_hat) * (point.setting("gamma", float) * self.sigma_max),
            self._sigmas(point.setting("steps", int)),
            noise=torch.randn_like,
            terms=self.unet.context_terms(contexts),
            x_hat=x_hat,
        )
        return Resampled(crop_center(x_hat + r_hat, *x.shape[-2:]).add(1).div(2))

    def _sigmas(self, steps: int) -> Tensor:
        return karras_sigmas(self.sigma_max, steps, sigma_min=self.sigma_min, rho=self.rho)

    def denoiser(self) -> EDMDenoiser:
        """The denoiser D(r; sigma, terms, x_hat) of residuals r of images in [-1, 1]."""

        def network(
            r: Tensor, time: Tensor, terms: Sequence[ContextTerms], x_hat: Tensor
        ) -> Tensor:
            blocks = F.pixel_unshuffle(r, self.patch)
            shift, gain = self.unet(blocks, time, terms).float().chunk(2, dim=1)
            out = F.pixel_shuffle(shift + gain * blocks, self.patch)
            return out if self.refiner is None else self.refiner(out, r, x_hat)

        return EDMDenoiser(network, sigma_data=self.sigma_data)

    def losses(self, x: Tensor, noise: Tensor, sigma: Tensor, point: Point) -> Tensor:
        """EDM's loss (Karras et al. 2022, Eq. 8) on the residual of each image, (B,).

        Args:
            x: images, (B, 3, H, W) in [0, 1].
            noise: standard normal noise, (B, 3, H', W') with the size of the padded images.
            sigma: noise levels, (B,), at the scale of images in [-1, 1].
            point: operating point of the base.
        """
        x_hat, contexts = self.contexts(self.compressor.simulate(x, point))
        residual = pad_around(x * 2 - 1, STRIDE) - x_hat
        terms = self.unet.context_terms(contexts)
        loss, _ = self.denoiser().loss(residual, noise, sigma, terms=terms, x_hat=x_hat)
        return loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = batch["image"]
        base_points = self.compressor.points
        # One point for the whole batch, so that the base codes it in one call.
        point = base_points[int(torch.randint(len(base_points), ()))]
        sigma = (self.p_mean + self.p_std * torch.randn(len(x), device=x.device)).exp()
        noise = torch.randn_like(pad_around(x, STRIDE))
        loss = self.losses(x, noise, sigma, point).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Run `Codec.validation_step` and log the loss at fixed noise levels as `val/loss`."""
        if not len(batch["index"]):
            return super().validation_step(batch, batch_idx)
        base_points = self.compressor.points
        quantiles = (torch.arange(VALIDATION_LEVELS) + 0.5) / VALIDATION_LEVELS
        sigmas = (self.p_mean + self.p_std * torch.special.ndtri(quantiles)).exp()
        for index, x in zip(batch["index"].tolist(), batch["image"].split(1), strict=True):
            noise = seeded_noise(derive_seed([f"validation {index}".encode()]))
            point = base_points[index % len(base_points)]
            for sigma in sigmas.to(x.device).split(1):
                loss = self.losses(x, noise(pad_around(x, STRIDE)), sigma, point)
                self._validation_loss.update(loss)
        self.log("val/loss", self._validation_loss, prog_bar=True)
        return super().validation_step(batch, batch_idx)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )


def padded_picture(decoded: Decoded) -> Tensor:
    """The base's reconstructions in [-1, 1], padded on all sides to multiples of 64."""
    return pad_around(decoded.x_hat * 2 - 1, STRIDE)


def _build_points(
    base_points: Sequence[Point], steps: int | Sequence[int], gamma: float | Sequence[float]
) -> list[tuple[Point, Point]]:
    """All pairs of an operating point and its base's point; the base's points vary slowest.

    Raises:
        ValueError: a number of steps is below one, a gamma is negative, a combination occurs twice,
            or the base has settings named `steps` or `gamma`.
    """
    for count in listed(steps):
        if count < 1:
            raise ValueError(f"steps must be at least 1, got {count}")
    gammas = [float(g) for g in listed(gamma)]
    if not all(g >= 0 for g in gammas):
        raise ValueError(f"gamma must be at least 0, got {gammas}")
    options = combine(
        decoding={
            "steps": steps,
            "gamma": gammas[0] if isinstance(gamma, int | float) else gammas,
        }
    )
    points, bases = [], []
    for base, option in product(base_points, options):
        taken = sorted(base.settings.keys() & option.decoding.keys())
        if taken:
            raise ValueError(f"the base codec already has settings {taken}: choose another base")
        points.append(
            Point(
                ",".join(filter(None, (base.name, option.series))),
                rate=base.rate,
                encoding=base.encoding,
                decoding={**base.decoding, **option.decoding},
                series=",".join(filter(None, (base.series, option.series))),
            )
        )
        bases.append(base)
    return list(zip(name_lines(points), bases, strict=True))
