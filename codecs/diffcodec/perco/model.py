"""PerCo's networks as one module: hyper-encoders of several rates over one backbone.

The module computes codes, reconstructions and the terms of the training loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from diffcodec.coding.bitstream import derive_seed
from diffcodec.diffusion.denoiser import like
from diffcodec.diffusion.guidance import ClassifierFreeGuidance
from diffcodec.diffusion.sampler import Noise, find_sampler, seeded_noise
from diffcodec.diffusion.tiling import TiledDenoiser
from diffcodec.latent import low_rank
from diffcodec.latent.backbone import Backbone, frozen
from diffcodec.latent.process import LatentProcess, pure_noise
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.networks.precision import decoding_in
from diffcodec.networks.tiles import in_tiles, reach, widest_margin
from diffcodec.perco.finetune import drop
from diffcodec.perco.hyper_encoder import HyperEncoder
from diffcodec.perco.index_coder import INDEX_CODERS, CodeCoder, SinglePrecision, index_coder
from diffcodec.perco.index_model import IndexModel
from diffcodec.perco.rates import Rate, parse_rate
from diffcodec.perco.settings import HyperEncoderSettings
from diffcodec.points import listed
from diffcodec.weights.loading import load_strict, state_dict_of

DEFAULT_RATE = "8x8/256"
# Side of a hyper-encoder's tile, in latents. The lowest rate needs a margin of 96 around a code.
HYPER_WINDOW = 512


class LatentDiffusion(nn.Module):
    """A backbone with a learned null text and, for each rate, a hyper-encoder.

    Args:
        backbone: latent diffusion model. Its autoencoder and text encoder are frozen. Its U-Net
            gets input channels for z_hat.
        rates: rates, in the order of their indices in streams.
        hyper_encoder: sizes and quantizer of the hyper-encoders.
        grid_steps: number of timesteps that are trained and sampled.
        index_coder: coder of the codes, see `diffcodec.perco.index_coder`.
        window: side in pixels above which the networks process tiles.

    Raises:
        ValueError: the coder is unknown, or needs codes and there is no quantizer.
    """

    def __init__(
        self,
        backbone: Backbone,
        rates: Sequence[Rate],
        *,
        hyper_encoder: HyperEncoderSettings,
        grid_steps: int,
        index_coder: str = "uniform",
        window: int,
    ) -> None:
        if index_coder not in INDEX_CODERS:
            raise ValueError(
                f"unknown index_coder {index_coder!r}, choose from {', '.join(INDEX_CODERS)}"
            )
        if not hyper_encoder.quantize and index_coder != "uniform":
            raise ValueError(
                f"index_coder={index_coder} needs codes, and quantize=false has none: "
                "set index_coder=uniform"
            )
        super().__init__()
        self.backbone = backbone
        self.window = backbone.latents.window = window
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
                    **asdict(hyper_encoder),
                )
                for rate in self.rates
            }
        )
        self.index_coder = index_coder
        self.index_models = nn.ModuleDict()
        if index_coder != "uniform":
            self.index_models.update({rate.name: IndexModel(rate.num_codes) for rate in rates})
            # Trained separately, after everything else: `diffcodec.perco.index_training`.
            self.index_models.requires_grad_(False)
        self._coders: dict[int, tuple[list[Tensor], CodeCoder]] = {}
        self.local_channels = hyper_encoder.M
        backbone.widen(self.local_channels)
        frozen(backbone.latents)
        frozen(backbone.text_encoder)
        with torch.no_grad():
            self.null_text = nn.Parameter(backbone.embed_text([""]))

    def adopt(self, source: str) -> bool:
        """Load null text, hyper-encoders and index models from the backbone's own file.

        Args:
            source: name of the file, for messages.

        Returns:
            Whether the file has all rates. Parts that it lacks stay random.

        Raises:
            ValueError: the hyper-encoders in the file have other sizes.
        """
        state = self.backbone.perco_state
        if "null_text" in state:
            load_strict(self, {**self.state_dict(), "null_text": state["null_text"]}, source=source)
        if not self.encoder(0).quantize:
            return False  # the file's hyper-encoders were trained with a quantizer
        own = {k: v for k, v in state.items() if k.startswith("backbone.unet.")}
        if low_rank.has_updates(own):
            current = self.state_dict()
            if low_rank.has_updates(current):
                load_strict(self, current | own, source=source)
            else:
                load_strict(self, low_rank.merge(current, own), source=source)
        found = 0
        for of_rates in ("hyper_encoders", "index_models"):
            for name, module in getattr(self, of_rates).items():
                own = {k: v for k, v in state.items() if k.startswith(f"{of_rates}.{name}.")}
                if own:
                    own = state_dict_of(own, prefix=f"{of_rates}.{name}.")
                    load_strict(module, own, source=source)
                    found += of_rates == "hyper_encoders"
        return 0 < found == len(self.rates)

    def train(self, mode: bool = True) -> "LatentDiffusion":
        super().train(mode)
        # Frozen parts stay in evaluation mode. Quantizers update their codebooks in training mode.
        self.backbone.latents.eval()
        self.backbone.text_encoder.eval()
        return self

    def encoder(self, index: int) -> HyperEncoder:
        """The hyper-encoder of a rate."""
        module = self.hyper_encoders[self.rates[index].name]
        assert isinstance(module, HyperEncoder)
        return module

    def index_model(self, index: int) -> IndexModel:
        """The entropy model of a rate's codes; only with an `index_coder` other than `uniform`."""
        module = self.index_models[self.rates[index].name]
        assert isinstance(module, IndexModel)
        return module

    def coder(self, index: int) -> CodeCoder:
        """The coder of the codes of a rate.

        Raises:
            ValueError: the coder needs an index model that was not trained.
        """
        rate = self.rates[index]
        model = self.index_model(index) if self.index_models else None
        state = [t.cpu() for t in model.state_dict().values()] if model else []
        known = self._coders.get(index)
        # Compare the weights: no other process could decode the streams of an outdated coder.
        if known is None or not all(map(torch.equal, known[0], state)):
            if self.encoder(index).quantize:
                coder = index_coder(self.index_coder, model, rate.num_codes)
            else:
                coder = SinglePrecision(self.local_channels)
            known = self._coders[index] = [t.clone() for t in state], coder
        return known[1]

    def decoding_state(self) -> dict[str, Tensor]:
        """Tensors that the decoder needs: all but both encoders and the codebooks' averages."""
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

    def codes(self, x: Tensor, index: int) -> Tensor:
        """Image (1, 3, H, W) in [0, 1] -> the codes of a rate, see `HyperEncoder.codes`."""
        x = pad_to_multiple(x, self.rates[index].pixels_per_code)
        latent, encoder = self.backbone.latents.encode(x), self.encoder(index)
        if max(latent.shape[-2:]) <= HYPER_WINDOW:
            return encoder.codes(latent)
        per_code = self.rates[index].pixels_per_code // self.backbone.latents.stride
        most = widest_margin(HYPER_WINDOW, per_code)
        scale = {"step": per_code, "down": per_code}
        margin = reach(encoder.backbone, latent, most=most, **scale)
        return in_tiles(encoder.codes, latent, window=HYPER_WINDOW, margin=margin, **scale)

    def reconstruct(
        self,
        *,
        height: int,
        width: int,
        caption: str | None,
        index: int,
        codes: Tensor | None,
        seed: int,
        num_steps: int,
        guidance: float,
        guided: str = "text",
        sampler: str = "ddim",
        spacing: str = "grid",
        precision: str = "32",
    ) -> Tensor:
        """Reconstruct an image (1, 3, height, width), not clamped.

        Args:
            height, width: size of the image.
            caption: caption; None selects the null text, without guidance on the text.
            index: index of the rate.
            codes: codes as returned by `codes`; None selects zeros for z_hat.
            seed: seed of all noise, which is drawn on the CPU and equal on every device.
            num_steps, guidance, guided, sampler, spacing: see `sample_latent`.
            precision: precision of the U-Net, see `diffcodec.networks.precision`.
        """
        stride, multiple = self.backbone.latents.stride, self.rates[index].pixels_per_code
        size = (
            -(-height // multiple) * multiple // stride,
            -(-width // multiple) * multiple // stride,
        )
        if codes is None:
            local = self.null_text.new_zeros(1, self.local_channels, *size)
        else:
            local = self.encoder(index).dequantize(codes)
        text = self.null_text if caption is None else self.backbone.embed_text([caption])
        shape = (1, self.backbone.latents.channels, *size)
        with decoding_in(precision, text.device):
            latent = self.sample_latent(
                torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(text),
                text=text,
                local=local,
                noise=seeded_noise(derive_seed([sampler.encode(), str(seed).encode()])),
                num_steps=num_steps,
                guidance=1.0 if caption is None and guided == "text" else guidance,
                guided=guided,
                sampler=sampler,
                spacing=spacing,
            )
        return self.backbone.latents.decode(latent)[..., :height, :width]

    def sample_latent(
        self,
        start: Tensor,
        *,
        text: Tensor,
        local: Tensor,
        noise: Noise,
        num_steps: int,
        guidance: float,
        guided: str = "text",
        sampler: str = "ddim",
        spacing: str = "grid",
    ) -> Tensor:
        """Sample latents (B, C, H, W) given text and codes, from pure noise (Sec. 4.1, App. A).

        Args:
            start: standard normal noise (B, C, H, W).
            text: embeddings of the captions, (B, L, D).
            local: z_hat (B, M, h, w).
            noise: noise of a stochastic sampler.
            num_steps: number of evaluations of the U-Net; guidance doubles it.
            guidance: scale lambda_s of the guidance (Eq. 5).
            guided: conditions that guidance drops: `text` as in Eq. 5, or `text_and_codes`, which
                also sets the codes to zero (Sec. 4.3):
                eps(0, 0) + lambda_s (eps(z_l, z_g) - eps(0, 0)). The network must have been trained
                without codes (`local_drop`).
            sampler: name in `diffusion.sampler`; the paper uses `ddim`.
            spacing: spacing of the timesteps, see `LatentProcess.sampling_sigmas`.
        """
        sigmas = self.process.sampling_sigmas(num_steps, spacing)
        whole = self.process.denoiser(
            lambda *args, **condition: self.backbone.network(*args, **condition).float()
        )
        denoiser = TiledDenoiser(
            whole,
            self.window // self.backbone.latents.stride,
            multiple=start.shape[-2] // local.shape[-2],  # latents per code
            spatial=["local"],
        )
        null: dict[str, Tensor] = {"text": self.null_text}
        if guided == "text_and_codes":
            null["local"] = torch.zeros_like(local)
        pulled = ClassifierFreeGuidance(denoiser, guidance, null)
        x = pure_noise(start, sigmas[0])
        x = find_sampler(sampler)(pulled, x, sigmas, noise=noise, text=text, local=local)
        # A last level above 0 leaves noise: return to the variance-preserving scale.
        return x * like(x, (1 + sigmas[-1] ** 2).rsqrt())

    def losses(
        self,
        x: Tensor,
        captions: Sequence[str | None],
        index: int,
        *,
        caption_drop: float = 0.0,
        local_drop: float = 0.0,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The terms of the training loss at one rate and random timesteps.

        Args:
            x: images (B, 3, H, W) in [0, 1].
            captions: one caption per image; None selects the null text.
            index: index of the rate.
            caption_drop, local_drop: shares of images without caption and without codes.
            perceptual: perceptual distance of images in [-1, 1].

        Returns:
            Scalars: `v_loss`, `commit_loss` and, with a perceptual distance, `lpips_loss`. With a
            quantizer also statistics of the batch: `codes_used`, the share of the codebook that
            occurs, and `perplexity`, 2 to the entropy of the codes in bits.
        """
        x = pad_to_multiple(x, self.rates[index].pixels_per_code)
        with torch.no_grad():
            # In float32: under autocast, noise of a large sigma would cancel the latent.
            x0 = self.backbone.latents.encode(x).float()
        text = self.backbone.embed_text([caption or "" for caption in captions])
        absent = torch.tensor([caption is None for caption in captions], device=x.device)
        text = drop(text, self.null_text, caption_drop, always=absent)
        encoding = self.encoder(index)(x0)
        local = drop(encoding.z_hat, torch.zeros_like(encoding.z_hat), local_drop)
        out = {"commit_loss": encoding.commit_loss}
        if encoding.indices is not None:
            used = encoding.indices.flatten()
            share = x0.new_zeros(self.rates[index].num_codes)
            counted = torch.full_like(used, 1 / len(used), dtype=x0.dtype)
            share = share.scatter_add(0, used, counted)
            out["codes_used"] = (share > 0).float().mean()
            out["perplexity"] = torch.special.entr(share).sum().exp()
        sigma, noise = self.process.draw_sigmas(len(x0)), torch.randn_like(x0)
        loss, x0_hat = self.process.v_loss(
            self.backbone.network, x0, noise, sigma, text=text, local=local
        )
        out["v_loss"] = loss.mean()
        if perceptual is not None:
            # Gradients go through the frozen decoder, to the U-Net and the hyper-encoder.
            x_hat = self.backbone.latents.decode(x0_hat)
            out["lpips_loss"] = perceptual(x_hat.clamp(0, 1) * 2 - 1, x * 2 - 1)
        return out

    def denoising_loss(self, x0: Tensor, text: Tensor) -> Tensor:
        """The loss of v without codes, a scalar: the task of the U-Net in DiffC and DDCM.

        Args:
            x0: latents (B, C, H, W).
            text: embeddings (B, L, D), half of which are replaced by the null text.
        """
        text = drop(text, self.null_text, 0.5)
        sigma, noise = self.process.draw_sigmas(len(x0)), torch.randn_like(x0)
        loss, _ = self.process.v_loss(self.backbone.network, x0, noise, sigma, text=text)
        return loss.mean()


def choose_hyper_encoders(
    backbone: Backbone,
    rates: str | Sequence[str | Sequence[int]] | None,
    settings: HyperEncoderSettings,
) -> tuple[list[Rate], HyperEncoderSettings, dict[str, Tensor] | None]:
    """Rates, settings and weights of the hyper-encoders: as given, or those of the backbone.

    Raises:
        ValueError: no rate is given, or another rate than that of the backbone's checkpoint.
    """
    if backbone.hyper_encoder_weights is None:
        rates = [DEFAULT_RATE] if rates is None else listed(rates)
        if not rates:
            raise ValueError(f"rate is empty: pass at least one, such as rate=[{DEFAULT_RATE}]")
        return [parse_rate(rate) for rate in rates], settings, None
    stored, state = backbone.hyper_encoder_weights
    sizes = {key: stored[key] for key in ("N", "M", "codebook_dim", "cosine")}
    rate = Rate(stored["grid"], stored["num_codes"])
    if rates is not None and [parse_rate(r) for r in listed(rates)] != [rate]:
        raise ValueError(
            f"the backbone is a PerCo checkpoint of rate {rate.name}, not of {listed(rates)}: "
            f"set rate=[{rate.name}] or rate=null"
        )
    return [rate], replace(settings, **sizes), state
