"""The training-free enhancer as a codec: the stream is the base codec's, the decoder does more.

x -> base codec -> bytes
bytes -> base codec -> x_hat -> + sigma * noise -> diffusion model, back to no noise -> x_tilde
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
    Strengths,
    check_strengths,
    find_index,
    level_sigma,
    log2_growth,
    num_trials,
    read_strengths,
    shipped_strengths,
    write_strengths,
)

log = logging.getLogger(__name__)

PURE_NOISE = 10.0  # a level beside which a picture in [-1, 1] does not show


class SDEdit(Codec):
    """Fast training-free perceptual image compression (2025), after SDEdit (Meng et al. 2021).

    Streams are those that the base codec writes, byte for byte, and each decodes what the other
    wrote: preset and strength are the decoder's choice. Only `strength=per_image` changes them: a
    byte more in each, and another fingerprint.

    Args:
        base: any codec; it is not trained here.
        prior: the diffusion model, and its consistency model for presets that use one.
        preset: name -> what the decoder does. The curve has a line for each.
        strength: sigma of the added noise in the prior's space, which for image priors is [-1, 1];
            or `auto`: for each preset and point of the base, what doubles the squared error on the
            calibration images (Sec. 3.1), found by `calibrate` at the start of a run or shipped for
            what ships; or what was found before, as the path of its `strengths.json` or as preset
            -> point of the base -> sigma; or `per_image`: the encoder finds what doubles this
            image's error and sends it.
            A list (not of `per_image`) decodes the same bytes at each (Sec. 3.3). Presets that
            start from pure noise have none.
        blend: share of the enhanced picture in what is decoded, the rest is the base's (Yan et al.
            2022). A list as of strengths.
        show_base: measure the base codec's own pictures as well, as a line of their own.
        calibration: -> images (1, 3, H, W) in [0, 1]; called once, by `calibrate`.
        reference: a codec whose squared error `auto` doubles in place of the base's, at the base's
            rate: Hyperprior for MS-ILLM, whose own error is not the least (Sec. 4.1). It is no part
            of what is saved.
        decode_precision: `32` or `bf16`, of the diffusion model.
        compile: `torch.compile` its networks: minutes once, then faster.
        weights: null, or a source of `diffcodec.weights`: of base and prior, where `save` wrote
            them because they can be had nowhere else.

    Raises:
        ValueError: one of these is not among its choices, the prior has no network for a preset or
            does not know a strength, or a preset's constraint needs a base that is differentiable.
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
                f"preset {', '.join(constrained)} needs a base codec that gradients flow through, "
                f"which {type(base).__name__} is not: choose another base, or fast or medium"
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
        self._is_auto = strength == AUTO
        self._signalled = strength == PER_IMAGE
        self._strengths: Strengths = given
        self._shipped: Strengths | None = None
        self._calibration = Calibration(calibration, reference)
        self.base = base.requires_grad_(False).eval()
        self.prior = prior.requires_grad_(False).eval()
        self.decode_precision = decode_precision
        if compile:
            prior.compile()
        for p in self._presets.values():
            self._network(p)  # is there
            if p.method == DDPM:
                prior.ddpm_sigmas(p.steps)
        self.num_sections = base.num_sections
        self.reads_annotations = base.reads_annotations
        self.progressive = base.progressive and not self._signalled
        if weights is not None:
            self.load_weights(weights)

    def arguments(self) -> dict[str, Any]:
        found = {**super().arguments(), "calibration": None, "reference": None}
        if not self._is_auto:
            return found
        known: Strengths = {}
        for point in self.points:
            sigma = self._known_sigma(point)
            if sigma is not None:
                base_name = self._base_points[point.name].name
                known.setdefault(str(point.settings["preset"]), {})[base_name] = sigma
        # Whoever decodes has to know what was found here.
        return {**found, "strength": known or AUTO}

    def base_point(self, point: Point) -> Point:
        """The base codec's operating point at one of this codec's."""
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
        # Here, so that it is no part of decoding, and the same on all processes.
        for point in points:
            if point.settings["strength"] == AUTO and self._has_strength(point):
                self.calibrate([point])
                found = self._strengths[str(point.settings["preset"])]
                name = self._base_points[point.name].name
                found[name] = gather_all([found[name]])[0]

    def write_prepared(self, folder: str | Path) -> None:
        if self._strengths:
            self.write_strengths(Path(folder) / "strengths.json")

    def calibrate(self, points: Sequence[Point] | None = None) -> None:
        """Find the strengths of points with `strength=auto`, where they are not known yet.

        Decoding never does it: what it must know is found here, or given as a file.

        Args:
            points: None is all of them.

        Raises:
            ValueError: there are no calibration images.
        """
        pending = self._pending(self.points if points is None else points)
        if not pending:
            return
        images = self._calibration.num_images(self.base)
        trials = num_trials(self.prior.max_sigma)
        steps = sum(self._presets[preset].steps for preset, _ in pending)
        log.info(
            "strength=auto: %d strengths are calibrated on %d images, in %d network evaluations at "
            "most; codec.strength=FILE, as diffcodec calibrate writes it, saves them",
            *(len(pending), images, images * trials * steps),
        )
        with progress() as bar:
            for preset, base_point in pending:
                text = f"calibrating strength=auto of {preset} at {base_point.name}"
                task = bar.add_task(text, total=images * trials)
                advance = partial(bar.advance, task)
                sigma = self._calibrate(self._presets[preset], base_point, advance)
                self._strengths.setdefault(preset, {})[base_point.name] = sigma
                bar.update(task, visible=False)

    def _pending(self, points: Sequence[Point]) -> list[tuple[str, Point]]:
        """Presets and points of the base whose strength is not known yet, each once."""
        pending = {}
        for point in points:
            preset: Any = point.settings["preset"]
            base_point = self._base_points[point.name]
            if point.settings["strength"] != AUTO or not self._has_strength(point):
                continue
            if base_point.name not in self._strengths.get(preset, {}):
                pending[preset, base_point.name] = base_point
        return [(preset, base_point) for (preset, _), base_point in pending.items()]

    def _has_strength(self, point: Point) -> bool:
        """Whether a point adds noise to the base's picture: not its own, nor one of pure noise."""
        name: Any = point.settings["preset"]
        return name is not None and not self._presets[name].from_noise

    def write_strengths(self, path: Path) -> None:
        """Write what `calibrate` found, for `strength=FILE`."""
        write_strengths(self._strengths, path, self._made_for())

    def _made_for(self) -> dict[str, Any]:
        """What the strengths depend on beside the calibration images."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.prior.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        reference = self._calibration.reference
        return {
            "base": self.base.fingerprint().hex(),
            **({} if reference is None else {"reference": reference.fingerprint().hex()}),
            "prior": digest.hexdigest(),
            "presets": {name: asdict(preset) for name, preset in self._presets.items()},
        }

    def seed_of(self, sections: Sequence[bytes]) -> int:
        # The base codec's, for its picture to be the same; the byte was chosen by that seed.
        if self._signalled:
            sections = [*sections[:-1], sections[-1][:-1]]
        return self.base.seed_of(sections)

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
        settings: Any = point.settings
        sigmas: list[float] = [0.0] * len(payloads)
        if self._signalled:
            payloads, sigmas = _split_indices(payloads)
        elif settings["preset"] is not None:
            sigmas = [self._sigma(point)] * len(payloads)
        preset = None if settings["preset"] is None else self._presets[settings["preset"]]
        images, base_point = [], self.base_point(point)
        # One image at a time: what a convolution rounds depends on the batch it is part of.
        for payload, sigma, seed in zip(payloads, sigmas, seeds, strict=True):
            picture = partial(self._base_picture, payload, height, width, seed, base_point)
            if preset is None:
                images.append(picture())
            else:
                # Handed over as it is made: nothing holds a large one longer than it is needed.
                blend = settings["blend"]
                images.append(self.enhance(picture(), sigma, seed, preset, base_point, blend))
        return Decoded(torch.cat(images))

    def _base_picture(
        self, payload: list[bytes], height: int, width: int, seed: int, base_point: Point
    ) -> Tensor:
        """The base's picture, in [0, 1]; made once for all points that share its bytes."""

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
        """Add noise to a decoded picture and take it away again (Eqs. 9 to 11).

        Args:
            x_hat: the base codec's picture, (1, 3, H, W) in [0, 1].
            sigma: noise level in the prior's space; 0 returns x_hat as it is.
            seed: of all noise.
            preset: how.
            base_point: of the base codec, which a constraint codes with.
            blend: share of the result that is returned.

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
            # What was made in inference mode can have no gradients.
            z_hat = self.prior.encode(self.prior.pad(x_hat.clone() if constrained else x_hat))
            sigmas: Tensor | None = None
            if preset.from_noise:
                z_hat, sigma = torch.zeros_like(z_hat), self.prior.max_sigma
            if preset.method == DDPM:
                sigmas = self.prior.ddpm_sigmas(preset.steps)
                sigma = float((1 + sigmas[0] ** 2).sqrt())  # of x / sqrt(abar), x of unit variance
            # Another stream of noise than the base codec's, which may have used this seed.
            noise = seeded_noise(derive_seed([b"SDEdit", str(seed).encode()]))
            distance = self._distance(x_hat.clone(), preset, base_point) if preset.zeta else None
            if blend == 1:
                del x_hat  # of a large picture there is no room for many copies
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
        """|| C(x_hat) - C(x0_hat) ||_2 of pictures in [-1, 1] (Eq. 17); x_hat itself for IVC."""
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
        settings: Any = point.settings
        preset, strength = settings["preset"], settings["strength"]
        if preset is None:
            return 0.0
        if self._presets[preset].from_noise:
            return self.prior.max_sigma
        if isinstance(strength, float):
            return strength
        known = self._known_sigma(point)
        if known is None:
            name = self._base_points[point.name].name
            raise ValueError(
                f"strength=auto is not known for preset {preset!r} at {name}, and decoding does "
                "not look for it: give codec.strength=FILE as experiments.calibrate or a run wrote "
                "it, or codec.strength=NUMBER"
            )
        return known

    def _known_sigma(self, point: Point) -> float | None:
        """The strength of a point with `strength=auto`, or None where it is not known."""
        if not self._has_strength(point):
            return None
        preset, name = str(point.settings["preset"]), self._base_points[point.name].name
        if name not in self._strengths.get(preset, {}):
            if self._shipped is None:
                # What ships was found with the base's own error.
                own = self._calibration.reference is None
                self._shipped = shipped_strengths(self._made_for()) if own else {}
            return self._shipped.get(preset, {}).get(name)
        return self._strengths[preset][name]

    @torch.no_grad()
    def _calibrate(self, preset: Preset, base_point: Point, advance: Callable[[], None]) -> float:
        """The sigma at which the base's error doubles, in the mean of its logarithm over images.

        With a reference that is the reference's error, at the base's rate.
        """
        pairs = self._calibration.pairs(self.base, base_point)
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
        """The payload with the byte that doubles this image's error, as the decoder will see it."""
        name: Any = point.settings["preset"]
        *sections, last = payload
        index = 0
        if name is not None:
            preset, base_point = self._presets[name], self.base_point(point)
            (height, width), seeds = x.shape[-2:], [self.base.seed_of(payload)]
            x_hat = self.base.decode([payload], height, width, seeds, base_point).x_hat.clamp(0, 1)
            base_mse = mse(x, x_hat)

            def excess(sigma: float) -> float:
                x_tilde = self.enhance(x_hat, sigma, seeds[0], preset, base_point)
                return log2_growth(mse(x, x_tilde), base_mse)

            index = find_index(excess, self.prior.max_sigma)
        return [*sections, last + bytes([index])]


class _Last:
    """A distance that remembers its last value."""

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
    """Refuse noise levels that the prior was not trained for.

    Raises:
        ValueError: a strength is above the prior's highest level, there is a preset from pure noise
            and the prior knows none, or such a preset would be signalled.
    """
    noisy = [name for name, preset in presets.items() if preset.from_noise]
    if noisy and prior.max_sigma < PURE_NOISE:
        raise ValueError(
            f"preset {', '.join(noisy)} starts from pure noise, but the prior knows noise up to "
            f"{prior.max_sigma:g} only: choose another, as codec/prior=imagenet"
        )
    if noisy and strength == PER_IMAGE:
        raise ValueError(f"preset {', '.join(noisy)} has no strength: strength={PER_IMAGE} is none")
    values = [value for value in listed(strength) if not isinstance(value, str)]
    values += [sigma for by_point in given.values() for sigma in by_point.values()]
    above = sorted({float(value) for value in values if float(value) > prior.max_sigma})
    if above:
        raise ValueError(
            f"strength {', '.join(f'{value:g}' for value in above)} is above the highest noise "
            f"level that the prior knows, {prior.max_sigma:g}"
        )


def _split_indices(payloads: list[list[bytes]]) -> tuple[list[list[bytes]], list[float]]:
    """Payloads with a byte at their end -> the base's own, and the noise level that it names."""
    if not all(payload[-1] for payload in payloads):
        raise BitstreamError("the byte of the strength is missing")
    stripped = [[*payload[:-1], payload[-1][:-1]] for payload in payloads]
    return stripped, [level_sigma(payload[-1][-1]) for payload in payloads]
