"""CDC over any codec: the diffusion of what that codec's picture leaves out.

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
STRIDE = 64  # of the learned codecs' hyper-latents
PATCHES = (1, 2, 4, 8)
VALIDATION_LEVELS = 4


@dataclass
class Conditions:
    """What the decoder computes once for an image, whatever the operating point.

    Attributes:
        x_hat: the base codec's picture, padded, (1, 3, H, W) in [-1, 1].
        y_hat, lmbda: of the base, as in `Decoded`.
        terms: of the context maps, as `UNet.context_terms` makes them; None of an image larger than
            the window, where they would take ten times the memory of its picture.
    """

    x_hat: Tensor
    y_hat: Tensor | None
    lmbda: Tensor | None
    terms: list[ContextTerms] | None


class ResidualCDC(Codec):
    """CDC's conditional diffusion decoder over a base codec: one network for all its rates.

    The stream is the base's, byte for byte, and each decodes what the other wrote. The decoder
    samples the residual r = x - x_hat, in [-1, 1], from p(r | x_hat, y_hat, lmbda) with EDM's
    preconditioning (Karras et al. 2022, Eq. 7 and Table 1), which around x_hat reads

        D(x; sigma) = x_hat + c_skip r + c_out F(c_in r, ln(sigma) / 4; contexts),  r = x - x_hat

    with F(u, …) = a + b u, where the U-Net makes a and b for every pixel and channel. Residuals are
    small where the picture is flat and large where it has texture, and of a Gaussian residual of
    any deviation the best estimate is a multiple of u, which the network need not pass through all
    of its layers.

    Steps and the strength of the starting noise are the decoder's choice, as with `CDC` (gamma 0:
    faithful; 1: realistic), and share their bytes. It is close to DIRAC (Ghouse et al. 2023), a
    residual diffusion over a base codec, which has no public code.

    Args:
        compressor: the base, any codec; it is not trained here.
        width: channels of the U-Net's first stage.
        multipliers: channels of each of its resolutions, in widths.
        patch: pixels a side that make one of the U-Net's, by the channel: 1, 2, 4 or 8. On a CPU 32
            channels at 2 take 0.4 of the time of 16 channels at 1.
        context_channels: channels of the finest context map.
        latents: use the base's y_hat as a context, where it has one.
        steps: decoding steps, one number or several.
        gamma: standard deviation of the starting noise in units of sigma_max, one or several. The
            operating points are the base's, at all pairs of a number of steps and a gamma.
        sigma_max, sigma_min, rho: the sampler's noise levels, see `karras_sigmas`.
        sampler: `ddim`, `dpmpp_2m` or `euler_sde`. Extrapolating between steps, the second needs a
            network that was trained long: before, it leaves more noise.
        sigma_data: standard deviation of residuals in [-1, 1].
        p_mean, p_std: of ln(sigma) in training; null is ln(sigma_data) for the first.
        lr, weight_decay, warmup_steps: of AdamW; the learning rate falls linearly to zero.
        decode_precision: `32` or `bf16`, of the U-Net in decoding.
        compile: `torch.compile` the U-Net: minutes once, then faster.
        window: side in pixels, a multiple of 64, of what the U-Net sees at once: of larger images
            it blends the estimates of overlapping tiles at every step. The base has its own.
        weights: null (from scratch), or a source of `diffcodec.weights`, of the U-Net and the
            embedder of contexts. The base has its own.

    Raises:
        ValueError: one of these is not among its choices, or the weights do not fit.
    """

    def __init__(
        self,
        compressor: Codec,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 3, 4, 5),
        patch: int = 2,
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
        find_sampler(sampler)  # is there
        for name, value in {"width": width, "context_channels": context_channels}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if patch not in PATCHES:
            raise ValueError(f"unknown patch {patch}, choose from {PATCHES}")
        coarsest = patch * 2 ** (len(multipliers) - 1)
        if not LATENT_STRIDE <= coarsest <= STRIDE:
            raise ValueError(
                f"{len(multipliers)} multipliers at patch={patch} are resolutions down to "
                f"1/{coarsest:g}, choose as many as end at 1/{LATENT_STRIDE} to 1/{STRIDE}"
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
        compressor.fingerprint()  # builds the entropy tables, before anything copies it
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
        # An untrained decoder returns the base's picture, and training starts from there.
        for parameter in self.unet.conv_out.parameters():
            nn.init.zeros_(parameter)
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
        """Load the U-Net and the embedder.

        Args:
            source: as in `diffcodec.weights`. A base that it holds replaces this codec's.

        Raises:
            ValueError: it cannot be had, or does not fit this configuration.
        """
        state = state_dict_of(load_checkpoint(source))
        if not any(name.startswith("embedder.") for name in state):
            raise ValueError(
                f"{source} does not hold a decoder over another codec: CDC as in its paper is "
                "codec=cdc"
            )
        load_saved(self, state, source=source)

    def base_point(self, point: Point) -> Point:
        """The base codec's operating point at one of this codec's."""
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
        # One image at a time: what a convolution rounds depends on the batch it is part of.
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
        """What the base decodes of an image, and the contexts made of that."""
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
        """What a base decoded -> its pictures, padded and in [-1, 1], and their context maps."""
        x_hat = padded_picture(decoded)
        return x_hat, self.embedder(x_hat, decoded.lmbda, decoded.y_hat)

    def sample(self, conditions: Conditions, seed: int, point: Point) -> Tensor:
        """What an image may have been, (1, 3, H, W) in [-1, 1], given what was decoded of it.

        At the point's number of steps and gamma.
        """
        settings: Any = point.decoding
        x_hat, known = conditions.x_hat, conditions.terms
        sigmas = self._sigmas(settings["steps"])
        # Another stream of noise than the base's, which may have used this seed.
        noise = seeded_noise(derive_seed([b"residual", str(seed).encode()]))
        denoiser = self.denoiser()

        def of_tile(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
            terms = known
            if terms is None:
                x_hat, y_hat = condition["x_hat"], condition.get("y_hat")
                contexts = self.embedder(x_hat, conditions.lmbda, y_hat)
                terms = self.unet.context_terms(contexts)
            return denoiser(x, sigma, terms=terms)

        with_latents = {} if conditions.y_hat is None else {"y_hat": conditions.y_hat}
        tiled = TiledDenoiser(of_tile, self.window, multiple=STRIDE, spatial=["x_hat", "y_hat"])
        with decoding_in(self.decode_precision, x_hat.device):
            start = noise(x_hat).mul_(settings["gamma"] * self.sigma_max)
            sample = find_sampler(self.sampler)
            r_hat = sample(
                tiled, start, sigmas, noise=noise, overwrite=True, x_hat=x_hat, **with_latents
            )
            return r_hat.add_(x_hat)

    def resample(self, batch: dict[str, Any], point: Point) -> Resampled:
        """Decode the images of a batch at a point, see `FewStepTraining`."""
        x = batch["image"]
        x_hat, contexts = self.contexts(self.compressor.simulate(x, self.base_point(point)))
        settings: Any = point.decoding
        r_hat = find_sampler(self.sampler)(
            self.denoiser(),
            torch.randn_like(x_hat) * (settings["gamma"] * self.sigma_max),
            self._sigmas(settings["steps"]),
            noise=torch.randn_like,
            terms=self.unet.context_terms(contexts),
        )
        return Resampled(crop_center(x_hat + r_hat, *x.shape[-2:]).add(1).div(2))

    def _sigmas(self, steps: int) -> Tensor:
        return karras_sigmas(self.sigma_max, steps, sigma_min=self.sigma_min, rho=self.rho)

    def denoiser(self) -> EDMDenoiser:
        """D(r; sigma, terms) of residuals in [-1, 1]."""

        def network(r: Tensor, time: Tensor, terms: Sequence[ContextTerms]) -> Tensor:
            blocks = F.pixel_unshuffle(r, self.patch)
            shift, gain = self.unet(blocks, time, terms).float().chunk(2, dim=1)
            return F.pixel_shuffle(shift + gain * blocks, self.patch)

        return EDMDenoiser(network, sigma_data=self.sigma_data)

    def losses(self, x: Tensor, noise: Tensor, sigma: Tensor, point: Point) -> Tensor:
        """EDM's loss (Karras et al. 2022, Eq. 8) of the residuals of images, (B,).

        Args:
            x: images, (B, 3, H, W) in [0, 1].
            noise: standard normal, (B, 3, H, W) of the padded images.
            sigma: noise levels in [-1, 1], (B,).
            point: of the base.
        """
        x_hat, contexts = self.contexts(self.compressor.simulate(x, point))
        residual = pad_around(x * 2 - 1, STRIDE) - x_hat
        terms = self.unet.context_terms(contexts)
        loss, _ = self.denoiser().loss(residual, noise, sigma, terms=terms)
        return loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = batch["image"]
        base_points = self.compressor.points
        # One for the batch: the base then takes all of it at once.
        point = base_points[int(torch.randint(len(base_points), ()))]
        sigma = (self.p_mean + self.p_std * torch.randn(len(x), device=x.device)).exp()
        noise = torch.randn_like(pad_around(x, STRIDE))
        loss = self.losses(x, noise, sigma, point).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """As `Codec.validation_step`, and the loss at fixed noise levels, as `val/loss`."""
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
    """The pictures of a base, padded around to multiples of 64 and in [-1, 1]."""
    return pad_around(decoded.x_hat * 2 - 1, STRIDE)


def _build_points(
    base_points: Sequence[Point], steps: int | Sequence[int], gamma: float | Sequence[float]
) -> list[tuple[Point, Point]]:
    """All operating points, each with the base's that it starts from; the base's are outermost.

    Raises:
        ValueError: a number of steps below one, a negative gamma, one pair twice, or a base whose
            own points are told apart by steps or gamma.
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
            raise ValueError(f"the base codec has settings {taken} of its own: choose another")
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
