"""The training-free enhancer: it writes the base codec's stream and denoises its reconstruction.

x -> base codec -> bytes
bytes -> base codec -> x_hat -> + sigma * noise -> denoising by a diffusion model -> x_tilde
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcodec.codec import Codec, Decoded
from diffcodec.coding.bitstream import BitstreamError, derive_seed
from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.sampler import seeded_noise
from diffcodec.networks.precision import check_precision, decoding_in
from diffcodec.points import Point, listed
from diffcodec.results.gathering import gather_all
from diffcodec.sdedit.calibration import Calibration, mse, progress
from diffcodec.sdedit.preset_points import build_points
from diffcodec.sdedit.presets import DDPM, RESTART_GROWTH, Preset
from diffcodec.sdedit.prior import Prior
from diffcodec.sdedit.strength import (
    AUTO,
    PER_IMAGE,
    PERCEPTUAL,
    RULES,
    Strengths,
    check_strengths,
    find_index,
    find_nearest,
    level_sigma,
    log2_growth,
    num_perceptual_trials,
    num_trials,
    read_strengths,
    shipped_strengths,
    write_strengths,
)
from diffcodec.training.perceptual import PerceptualLoss

log = logging.getLogger(__name__)

PURE_NOISE = 10.0  # a noise level that hides any image in [-1, 1]


class SDEdit(Codec):
    """Fast training-free perceptual image compression (2025), after SDEdit (Meng et al. 2021).

    Its streams are identical to the base codec's, and either codec decodes them: preset and
    strength are settings of the decoder. Only `strength=per_image` changes the format: it adds one
    byte to each stream and uses another fingerprint.

    Args:
        base: base codec; it stays frozen.
        prior: diffusion model, with a consistency model for presets that use one.
        preset: mapping of names to decoder settings; each preset is one line of the curve.
        strength: sigma of the added noise in the prior's space ([-1, 1] for image priors); or
            `auto`: the sigma that doubles the squared error on the calibration images (Sec. 3.1),
            per preset and base point, found by `calibrate` at the start of a run and shipped for
            the shipped models; or `perceptual`: the sigma with the lowest ST-LPIPS on these images,
            a rule of this project; or the path of a `strengths.json`; or a mapping preset -> base
            point -> sigma; or `per_image`: the encoder finds the sigma that doubles the error of
            each image and sends it.
            A list (without `per_image`) decodes the same bytes at each strength (Sec. 3.3). Presets
            that start from pure noise have no strength.
        blend: weight of the enhanced image in the output; the base reconstruction has the rest (Yan
            et al. 2022). A list decodes the same bytes at each blend.
        show_base: whether the base codec's reconstructions are measured as a separate line.
        calibration: function that returns images (1, 3, H, W) in [0, 1]; `calibrate` calls it once.
        reference: codec whose squared error at the base's rate `auto` doubles, in place of the
            base's error: Hyperprior for MS-ILLM, which does not minimize the error (Sec. 4.1). It
            is not saved.
        decode_precision: precision of the diffusion model, `32` or `bf16`.
        compile: whether to `torch.compile` the networks, which takes minutes once.
        weights: null, or a source of `diffcodec.weights` for the weights of base and prior that
            `save` wrote because they have no other source.

    Raises:
        ValueError: an argument has an unknown value, the prior lacks the network of a preset, a
            strength is above the prior's highest noise level, or a preset has a constraint and the
            base is not differentiable.
    """

    def __init__(
        self,
        base: Codec,
        prior: Prior,
        preset: Mapping[str, Preset],
        *,
        strength: str | float | Sequence[str | float] | Mapping[str, Any] = AUTO,
        blend: float | Sequence[float] = 1.0,
        show_base: bool = True,
        calibration: Callable[[], Iterable[Tensor]] | None = None,
        reference: Codec | None = None,
        decode_precision: str | int = "32",
        compile: bool = False,
        weights: str | None = None,
    ) -> None:
        decode_precision = check_precision(decode_precision)
        constrained = [name for name, p in preset.items() if p.zeta]
        if constrained and not base.differentiable:
            raise ValueError(
                f"preset {', '.join(constrained)} needs a differentiable base codec, and "
                f"{type(base).__name__} is not: choose another base, or preset fast or medium"
            )
        given: Strengths = {}
        if isinstance(strength, str) and strength.endswith(".json"):
            given, strength = read_strengths(strength), AUTO
        elif isinstance(strength, Mapping):
            given, strength = check_strengths(strength, origin="strength"), AUTO
        _check_levels(prior, preset, given, strength)
        points = build_points(
            base.points, preset, strength=strength, blend=blend, show_base=show_base
        )
        super().__init__([point for point, _ in points.values()])
        self._base_points = {name: base_point for name, (_, base_point) in points.items()}
        self._presets = dict(preset)
        chosen = {value for value in listed(strength) if value in RULES}
        self._rule = chosen.pop() if chosen else None
        self._signalled = strength == PER_IMAGE
        self._strengths: Strengths = given
        self._shipped: Strengths | None = None
        self._calibration = Calibration(calibration, reference, rule=self._rule or AUTO)
        self.base = base.requires_grad_(False).eval()
        self.prior = prior.requires_grad_(False).eval()
        self.decode_precision = decode_precision
        if compile:
            prior.compile()
        for p in self._presets.values():
            self._network(p)  # raises if the prior lacks it
            if p.method == DDPM:
                prior.ddpm_sigmas(p.steps)
        self.num_sections = base.num_sections
        self.reads_annotations = base.reads_annotations
        self.progressive = base.progressive and not self._signalled
        if weights is not None:
            self.load_weights(weights)

    def arguments(self) -> dict[str, Any]:
        found = {**super().arguments(), "calibration": None, "reference": None}
        if self._rule is None:
            return found
        known: Strengths = {}
        for point in self.points:
            sigma = self._known_sigma(point)
            if sigma is not None:
                base_name = self._base_points[point.name].name
                known.setdefault(str(point.settings["preset"]), {})[base_name] = sigma
        # The decoder needs the calibrated strengths.
        return {**found, "strength": known or self._rule}

    def base_point(self, point: Point) -> Point:
        """The base codec's operating point for one of this codec."""
        return self._base_points[point.name]

    def load_point(self, point: Point) -> None:
        self.base.load_point(self.base_point(point))

    def prefix(self, payload: bytes, height: int, width: int, point: Point) -> bytes:
        return self.base.prefix(payload, height, width, self.base_point(point))

    def point_facts(self, point: Point) -> dict[str, float]:
        return {} if self._signalled else {"strength": self._sigma(point)}

    def fingerprint(self) -> bytes:
        own = self.base.fingerprint()
        return hashlib.sha256(b"SDEdit per image" + own).digest() if self._signalled else own

    def decoding_state(self) -> dict[str, Tensor]:
        return {f"base.{k}": v for k, v in self.base.decoding_state().items()}

    def prepare_points(self, points: Sequence[Point]) -> None:
        # Not in `decode`: decoding time excludes calibration, and all processes must agree.
        for point in points:
            if point.settings["strength"] in RULES and self._has_strength(point):
                self.calibrate([point])
                found = self._strengths[str(point.settings["preset"])]
                name = self._base_points[point.name].name
                found[name] = gather_all([found[name]])[0]

    def write_prepared(self, folder: str | Path) -> None:
        if self._strengths:
            self.write_strengths(Path(folder) / "strengths.json")

    def calibrate(self, points: Sequence[Point] | None = None) -> None:
        """Find the missing strengths on the calibration images.

        `decode` never calibrates: it needs strengths found here or read from a file.

        Args:
            points: operating points to calibrate; None selects all.

        Raises:
            ValueError: there are no calibration images.
        """
        pending = self._pending(self.points if points is None else points)
        if not pending:
            return
        images = self._calibration.num_images(self.base)
        count = num_perceptual_trials if self._rule == PERCEPTUAL else num_trials
        trials = count(self.prior.max_sigma)
        steps = sum(self._presets[preset].steps for preset, _ in pending)
        log.info(
            "strength=%s: calibrating %d strengths on %d images, at most %d network evaluations; "
            "to skip this, pass codec.strength=FILE, written by diffcodec calibrate",
            *(self._rule, len(pending), images, images * trials * steps),
        )
        with progress() as bar:
            for preset, base_point in pending:
                text = f"calibrating strength={self._rule} of {preset} at {base_point.name}"
                task = bar.add_task(text, total=images * trials)
                advance = partial(bar.advance, task)
                sigma = self._calibrate(self._presets[preset], base_point, advance)
                self._strengths.setdefault(preset, {})[base_point.name] = sigma
                bar.update(task, visible=False)

    def _pending(self, points: Sequence[Point]) -> list[tuple[str, Point]]:
        """Pairs of preset and base point whose strength is missing, without duplicates."""
        pending = {}
        for point in points:
            base_point = self._base_points[point.name]
            if point.settings["strength"] not in RULES or not self._has_strength(point):
                continue
            preset = point.setting("preset", str)
            if base_point.name not in self._strengths.get(preset, {}):
                pending[preset, base_point.name] = base_point
        return [(preset, base_point) for (preset, _), base_point in pending.items()]

    def _has_strength(self, point: Point) -> bool:
        """Whether a point adds noise to x_hat: not for the base itself or a start from noise."""
        preset = self._preset(point)
        return preset is not None and not preset.from_noise

    def _preset(self, point: Point) -> Preset | None:
        """The preset of a point; None for the base's own reconstructions."""
        if point.settings["preset"] is None:
            return None
        return self._presets[point.setting("preset", str)]

    def write_strengths(self, path: Path) -> None:
        """Write the strengths found by `calibrate`, to be read by `strength=FILE`."""
        write_strengths(self._strengths, path, self._made_for())

    def _made_for(self) -> dict[str, Any]:
        """Everything that the strengths depend on, except the calibration images."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.prior.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        reference = self._calibration.reference
        return {
            "base": self.base.fingerprint().hex(),
            **({} if reference is None else {"reference": reference.fingerprint().hex()}),
            **({"rule": PERCEPTUAL} if self._rule == PERCEPTUAL else {}),
            "prior": digest.hexdigest(),
            "presets": {name: asdict(preset) for name, preset in self._presets.items()},
        }

    def seed_of(self, sections: Sequence[bytes]) -> int:
        # The base codec's seed, so that its reconstruction is the same. `_search` used this seed to
        # choose the strength byte, so that byte is left out.
        return self.base.seed_of(self._base_sections(sections))

    def num_part_bytes(self, sections: Sequence[bytes]) -> dict[str, int]:
        return self.base.num_part_bytes(self._base_sections(sections))

    def _base_sections(self, sections: Sequence[bytes]) -> Sequence[bytes]:
        """The sections that the base wrote, without the strength byte."""
        return [*sections[:-1], sections[-1][:-1]] if self._signalled else sections

    def encode(self, x: Tensor, point: Point, **more: Any) -> list[list[bytes]]:
        payloads = self.base.encode(x, self.base_point(point), **more)
        if not self._signalled:
            return payloads
        pairs = zip(x.split(1), payloads, strict=True)
        return [self._search(image, payload, point) for image, payload in pairs]

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        preset = self._preset(point)
        sigmas: list[float] = [0.0] * len(payloads)
        if self._signalled:
            payloads, sigmas = _split_indices(payloads)
        elif preset is not None:
            sigmas = [self._sigma(point)] * len(payloads)
        images, base_point = [], self.base_point(point)
        # One image at a time: the rounding of a convolution depends on the batch.
        for payload, sigma, seed in zip(payloads, sigmas, seeds, strict=True):
            picture = partial(self._base_picture, payload, height, width, seed, base_point)
            if preset is None:
                images.append(picture())
            else:
                # Passed without a local reference, so that a large x_hat is freed early.
                blend = point.setting("blend", float)
                images.append(self.enhance(picture(), sigma, seed, preset, base_point, blend))
        return Decoded(torch.cat(images))

    def _base_picture(
        self, payload: list[bytes], height: int, width: int, seed: int, base_point: Point
    ) -> Tensor:
        """The base's reconstruction in [0, 1], decoded once for all points that share its bytes."""

        def make() -> Tensor:
            decoded = self.base.decode([payload], height, width, [seed], base_point)
            return decoded.x_hat.clamp_(0, 1)

        return self.once((base_point.name, *payload), make)

    def enhance(
        self,
        x_hat: Tensor,
        sigma: float,
        seed: int,
        preset: Preset,
        base_point: Point,
        blend: float = 1.0,
    ) -> Tensor:
        """Add noise to a reconstruction and denoise it (Eqs. 9 to 11).

        Args:
            x_hat: the base codec's reconstruction, (1, 3, H, W) in [0, 1].
            sigma: noise level in the prior's space; 0 returns x_hat unchanged, unless the preset
                starts from pure noise.
            seed: seed of all noise.
            preset: solver and its settings.
            base_point: the base codec's operating point, at which a constraint codes.
            blend: weight of the enhanced image; x_hat has the rest.

        Returns:
            x_tilde (1, 3, H, W) in [0, 1].
        """
        if blend == 0 or (sigma == 0 and not preset.from_noise):
            return x_hat
        height, width = x_hat.shape[-2:]
        constrained = preset.zeta > 0
        with (
            torch.inference_mode(torch.is_inference_mode_enabled() and not constrained),
            torch.set_grad_enabled(constrained),
        ):
            # Tensors created in inference mode cannot require gradients.
            z_hat = self.prior.encode(self.prior.pad(x_hat.clone() if constrained else x_hat))
            sigmas: Tensor | None = None
            if preset.from_noise:
                z_hat, sigma = torch.zeros_like(z_hat), self.prior.max_sigma
            if preset.method == DDPM:
                sigmas = self.prior.ddpm_sigmas(preset.steps)
                sigma = float((1 + sigmas[0] ** 2).sqrt())  # std of x_t / sqrt(abar), x_t ~ N(0, I)
            # Derive another seed: the base codec may have used this one.
            noise = seeded_noise(derive_seed([b"SDEdit", str(seed).encode()]))
            distance = self._distance(x_hat.clone(), preset, base_point) if preset.zeta else None
            if blend == 1:
                del x_hat  # saves memory for large images
            network = self._network(preset)
            solve = partial(Preset.solve, denoiser=network, sigma=sigma, noise=noise, sigmas=sigmas)
            if preset.restart_above is None or distance is None:
                start = noise(z_hat).mul_(sigma).add_(z_hat)
                del z_hat
                z = solve(preset, x=start, distance=distance)
                del start
            else:
                for _ in range(preset.max_restarts):
                    last = _Last(distance)
                    z = solve(preset, x=noise(z_hat).mul_(sigma).add_(z_hat), distance=last)
                    if last.value <= preset.restart_above:
                        break
                    preset = replace(preset, zeta=RESTART_GROWTH * preset.zeta)
            x_tilde = self.prior.decode(z.detach())[..., :height, :width].clamp_(0, 1)
        return x_tilde if blend == 1 else x_hat + blend * (x_tilde - x_hat)

    def _distance(
        self, x_hat: Tensor, preset: Preset, base_point: Point
    ) -> Callable[[Tensor], Tensor]:
        """|| C(x_hat) - C(x0_hat) ||_2 of images in [-1, 1] (Eq. 17); for IVC x_hat - C(x0_hat)."""
        height, width = x_hat.shape[-2:]
        with torch.no_grad():
            recoded = preset.target != "decoded"
            target = self.base.reconstruct(x_hat, base_point) if recoded else x_hat

        def distance(z0: Tensor) -> Tensor:
            x0 = self.prior.decode(z0)[..., :height, :width]
            return 2 * (target - self.base.reconstruct(x0, base_point)).norm()

        return distance

    def _network(self, preset: Preset) -> Denoiser:
        prior = self.prior
        if preset.needs_consistency:
            network = prior.consistency()
        else:
            network = prior.ddpm() if preset.method == DDPM else prior.denoiser()

        def rounded(x: Tensor, sigma: Tensor, **condition: object) -> Tensor:
            with decoding_in(self.decode_precision, x.device):
                return network(x, sigma, **condition)

        return rounded

    def _sigma(self, point: Point) -> float:
        preset, strength = self._preset(point), point.settings["strength"]
        if preset is None:
            return 0.0
        if preset.from_noise:
            return self.prior.max_sigma
        if isinstance(strength, float):
            return strength
        known = self._known_sigma(point)
        if known is None:
            name, chosen = self._base_points[point.name].name, point.setting("preset", str)
            raise ValueError(
                f"strength={self._rule} is not calibrated for preset {chosen!r} at {name}, and "
                "decoding does not calibrate: pass codec.strength=FILE, written by diffcodec "
                "calibrate or a run, or codec.strength=NUMBER"
            )
        return known

    def _known_sigma(self, point: Point) -> float | None:
        """The calibrated, given or shipped strength of a point, or None."""
        if not self._has_strength(point):
            return None
        preset, name = str(point.settings["preset"]), self._base_points[point.name].name
        if name not in self._strengths.get(preset, {}):
            if self._shipped is None:
                # The shipped strengths were calibrated without a reference.
                own = self._calibration.reference is None
                self._shipped = shipped_strengths(self._made_for()) if own else {}
            return self._shipped.get(preset, {}).get(name)
        return self._strengths[preset][name]

    @torch.no_grad()
    def _calibrate(self, preset: Preset, base_point: Point, advance: Callable[[], None]) -> float:
        """Find sigma on the calibration images by the codec's rule.

        `auto` doubles the geometric mean of the base's squared error, or with a reference that of
        the reference's error at the base's rate. `perceptual` minimizes the mean ST-LPIPS.
        """
        pairs = self._calibration.pairs(self.base, base_point)

        def distance(sigma: float) -> float:
            total = 0.0
            for i, (x, x_hat) in enumerate(pairs):
                x_tilde = self.enhance(x_hat, sigma, i, preset, base_point)
                total += float(perceptual(x_tilde * 2 - 1, x * 2 - 1))
                advance()
            return total / len(pairs)

        if self._rule == PERCEPTUAL:
            perceptual = PerceptualLoss("st-alex", wanted_by=f"strength={PERCEPTUAL}")
            return level_sigma(find_nearest(distance, self.prior.max_sigma))
        errors = self._calibration.errors(self.base, base_point)

        def excess(sigma: float) -> float:
            total = 0.0
            for i, (x, x_hat) in enumerate(pairs):
                x_tilde = self.enhance(x_hat, sigma, i, preset, base_point)
                total += log2_growth(mse(x, x_tilde), errors[i])
                advance()
            return total / len(pairs)

        return level_sigma(find_index(excess, self.prior.max_sigma))

    @torch.no_grad()
    def _search(self, x: Tensor, payload: list[bytes], point: Point) -> list[bytes]:
        """Append the strength byte that doubles this image's error to its payload."""
        preset = self._preset(point)
        *sections, last = payload
        index = 0
        if preset is not None:
            base_point = self.base_point(point)
            (height, width), seeds = x.shape[-2:], [self.base.seed_of(payload)]
            x_hat = self.base.decode([payload], height, width, seeds, base_point).x_hat.clamp(0, 1)
            base_mse = mse(x, x_hat)

            def excess(sigma: float) -> float:
                x_tilde = self.enhance(x_hat, sigma, seeds[0], preset, base_point)
                return log2_growth(mse(x, x_tilde), base_mse)

            index = find_index(excess, self.prior.max_sigma)
        return [*sections, last + bytes([index])]


class _Last:
    """A distance that stores its last value."""

    def __init__(self, distance: Callable[[Tensor], Tensor]) -> None:
        self.distance = distance
        self.value = float("inf")

    def __call__(self, x0: Tensor) -> Tensor:
        found = self.distance(x0)
        self.value = float(found.detach())
        return found


def _check_levels(
    prior: Prior, presets: Mapping[str, Preset], given: Strengths, strength: Any
) -> None:
    """Check the noise levels against those that the prior was trained for.

    Raises:
        ValueError: a strength is above the prior's highest noise level; or a preset starts from
            pure noise and the prior's levels end below it, or `strength` is `per_image`.
    """
    noisy = [name for name, preset in presets.items() if preset.from_noise]
    if noisy and prior.max_sigma < PURE_NOISE:
        raise ValueError(
            f"preset {', '.join(noisy)} starts from pure noise, above the prior's highest noise "
            f"level {prior.max_sigma:g}: choose another prior, such as codec/prior=imagenet"
        )
    if noisy and strength == PER_IMAGE:
        raise ValueError(f"preset {', '.join(noisy)} has no strength: remove strength={PER_IMAGE}")
    values = [value for value in listed(strength) if not isinstance(value, str)]
    values += [sigma for by_point in given.values() for sigma in by_point.values()]
    above = sorted({float(value) for value in values if float(value) > prior.max_sigma})
    if above:
        raise ValueError(
            f"strength {', '.join(f'{value:g}' for value in above)} is above the prior's "
            f"highest noise level {prior.max_sigma:g}"
        )


def _split_indices(payloads: list[list[bytes]]) -> tuple[list[list[bytes]], list[float]]:
    """Split payloads into those of the base and the noise levels of their strength bytes."""
    if not all(payload[-1] for payload in payloads):
        raise BitstreamError("the stream has no strength byte")
    stripped = [[*payload[:-1], payload[-1][:-1]] for payload in payloads]
    return stripped, [level_sigma(payload[-1][-1]) for payload in payloads]
