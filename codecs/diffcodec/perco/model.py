"""PerCo's networks as one module: hyper-encoders of several rates over one backbone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.perco.backbone import Backbone, frozen
from diffcodec.perco.hyper_encoder import HyperEncoder
from diffcodec.perco.latents import pad
from diffcodec.perco.process import LatentProcess
from diffcodec.perco.rates import Rate, parse_rate
from diffcodec.perco.sampling import sample_latent
from diffcodec.perco.training import drop
from diffcodec.points import listed
from diffcodec.weights import load_strict, state_dict_of

FROZEN = ("backbone.latents.", "backbone.text_encoder.")


class LatentDiffusion(nn.Module):
    """A backbone with a learned null text and, for each rate, a hyper-encoder.

    Args:
        backbone: its autoencoder and text encoder are frozen; its U-Net is widened, if there are
            rates.
        rates: in the order in which streams number them; none makes it the backbone alone.
        hyper_encoder: options of `HyperEncoder`.
        grid_steps: timesteps that are trained and sampled.
    """

    def __init__(
        self,
        backbone: Backbone,
        rates: Sequence[Rate],
        *,
        hyper_encoder: Mapping[str, Any],
        grid_steps: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rates = list(rates)
        self.process = LatentProcess(
            backbone.alphas_cumprod, prediction=backbone.prediction, grid_steps=grid_steps
        )
        self.hyper_encoders = nn.ModuleDict(
            {
                rate.name: HyperEncoder(
                    rate,
                    in_channels=backbone.latents.channels,
                    latent_stride=backbone.latents.stride,
                    **hyper_encoder,
                )
                for rate in self.rates
            }
        )
        self.local_channels = int(hyper_encoder["M"]) if self.rates else 0
        backbone.widen(self.local_channels)
        frozen(backbone.latents)
        frozen(backbone.text_encoder)
        with torch.no_grad():
            self.null_text = nn.Parameter(backbone.embed_text([""]))

    def adopt(self, source: str) -> bool:
        """Take null text and hyper-encoders from the file that the backbone came from.

        Returns:
            Whether it holds all the rates; hyper-encoders that it does not hold stay random.

        Raises:
            ValueError: its hyper-encoders are of other sizes.
        """
        state = self.backbone.perco_state
        if "null_text" in state:
            load_strict(self, {**self.state_dict(), "null_text": state["null_text"]}, source=source)
        found = 0
        for name, encoder in self.hyper_encoders.items():
            own = {k: v for k, v in state.items() if k.startswith(f"hyper_encoders.{name}.")}
            if own:
                own = state_dict_of(own, prefix=f"hyper_encoders.{name}.")
                load_strict(encoder, own, source=source)
                found += 1
        return 0 < found == len(self.rates)

    def train(self, mode: bool = True) -> "LatentDiffusion":
        super().train(mode)
        # Frozen parts never train; the quantisers must, or their codebooks stand still.
        for part in (self.backbone.latents, self.backbone.text_encoder):
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    def encoder(self, index: int) -> HyperEncoder:
        """The hyper-encoder of a rate."""
        module = self.hyper_encoders[self.rates[index].name]
        assert isinstance(module, HyperEncoder)
        return module

    def decoding_state(self) -> dict[str, Tensor]:
        """The tensors that a decoder needs: without both encoders and the codebooks' averages."""
        encoder = ("backbone.latents.vae.encoder.", "backbone.latents.vae.quant_conv.")
        kept = ("quantizer._codebook.embed", "quantizer.project_out.")
        state = {"sigmas": self.process.sigmas}
        for name, tensor in self.state_dict().items():
            if name.startswith("hyper_encoders."):
                needed = name.split(".", 2)[2].startswith(kept) and "embed_avg" not in name
            else:
                needed = not name.startswith(encoder)
            if needed:
                state[name] = tensor
        return state

    def indices(self, x: Tensor, index: int) -> Tensor:
        """Image (1, 3, H, W) in [0, 1] -> the indices (1, h, w) of a rate."""
        latent = self.backbone.latents.encode(pad(x, self.rates[index].pixels_per_code))
        return self.encoder(index).indices(latent)

    def reconstruct(
        self,
        *,
        height: int,
        width: int,
        caption: str | None,
        index: int | None,
        indices: Tensor | None,
        seed: int,
        num_steps: int,
        guidance: float,
        bf16: bool = False,
    ) -> Tensor:
        """What was sent -> the picture (1, 3, height, width), not clamped.

        Args:
            height, width: of the image.
            caption: None is the learned embedding, without guidance.
            index: of the rate; None where there is none.
            indices: (1, h, w); None is a z_hat of zeros.
            seed, num_steps, guidance, bf16: see `sample_latent`.
        """
        stride = self.backbone.latents.stride
        multiple = stride if index is None else self.rates[index].pixels_per_code
        size = (
            -(-height // multiple) * multiple // stride,
            -(-width // multiple) * multiple // stride,
        )
        local = None
        if index is not None:
            if indices is None:
                local = self.null_text.new_zeros(1, self.local_channels, *size)
            else:
                local = self.encoder(index).dequantize(indices)
        text = self.null_text if caption is None else self.backbone.embed_text([caption])
        latent = sample_latent(
            self.backbone,
            self.process,
            size=size,
            text=text,
            null=self.null_text,
            local=local,
            seed=seed,
            num_steps=num_steps,
            guidance=1.0 if caption is None else guidance,
            bf16=bf16,
        )
        return self.backbone.latents.decode(latent)[..., :height, :width]

    def losses(
        self,
        x: Tensor,
        captions: Sequence[str | None],
        index: int | None,
        *,
        caption_drop: float = 0.0,
        local_drop: float = 0.0,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The terms of the training loss at one rate and random timesteps.

        Args:
            x: images (B, 3, H, W) in [0, 1].
            captions: one per image; None is the learned embedding.
            index: of the rate; None where there is none.
            caption_drop, local_drop: share of images without caption, and without codes.
            perceptual: distance of images in [-1, 1].

        Returns:
            `v_loss` and, where there is one, `commit_loss` and `lpips_loss`; scalars. Beside a
            `commit_loss`, `codes_used`: the share of the codebook that occurs in this batch.
        """
        multiple = self.backbone.latents.stride
        if index is not None:
            multiple = self.rates[index].pixels_per_code
        x = pad(x, multiple)
        with torch.no_grad():
            # Under autocast in half precision; noise of a large sigma would swallow it there.
            x0 = self.backbone.latents.encode(x).float()
        # The text encoder is trained with the backbone, and frozen in PerCo.
        text = self.backbone.embed_text([caption or "" for caption in captions])
        absent = torch.tensor([caption is None for caption in captions], device=x.device)
        text = drop(text, self.null_text, caption_drop, always=absent)
        out = {}
        local = None
        if index is not None:
            encoding = self.encoder(index)(x0)
            local = drop(encoding.z_hat, torch.zeros_like(encoding.z_hat), local_drop)
            out["commit_loss"] = encoding.commit_loss
            used = encoding.indices.unique().numel() / self.rates[index].num_codes
            out["codes_used"] = torch.tensor(used)
        x_noisy, sigma = self.process.add_noise(x0)
        denoiser = self.process.denoiser(self.backbone.network)
        x0_hat = denoiser(x_noisy, sigma, text=text, local=local)
        out["v_loss"] = self.process.v_loss(x0_hat, x0, sigma)
        if perceptual is not None:
            # Gradients go through the frozen decoder, to the U-Net and the hyper-encoder.
            x_hat = self.backbone.latents.decode(x0_hat)
            out["lpips_loss"] = perceptual(x_hat.clamp(0, 1) * 2 - 1, x * 2 - 1)
        return out


def choose_hyper_encoders(
    backbone: Backbone, rates: str | Sequence[str | Sequence[int]] | None, options: dict[str, Any]
) -> tuple[list[Rate], dict[str, Any], dict[str, Tensor] | None]:
    """Rates, options and weights of the hyper-encoders: as asked for, or the backbone's own.

    Raises:
        ValueError: no rate is asked for, or another than the backbone's checkpoint has.
    """
    if backbone.hyper_encoder_weights is None:
        if not rates:
            raise ValueError("rate is empty: give at least one, as in rate=[8x8/256]")
        return [parse_rate(rate) for rate in listed(rates)], options, None
    stored, state = backbone.hyper_encoder_weights
    options = {key: stored[key] for key in ("N", "M", "codebook_dim")} | {"cosine": False}
    rate = Rate(stored["grid"], stored["num_codes"])
    if rates is not None and [parse_rate(r) for r in listed(rates)] != [rate]:
        raise ValueError(
            f"the backbone is a PerCo checkpoint of rate {rate.name}, not of {listed(rates)}: "
            f"set rate=[{rate.name}] or rate=null"
        )
    return [rate], options, state
