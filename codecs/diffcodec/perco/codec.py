"""PerCo as a codec: it sends VQ codes and a caption, which a latent diffusion model decodes.

x -> autoencoder -> latent -> hyper-encoder -> indices -> bytes -> z_hat
x -> captioner -> text -> bytes -> text encoder
           noise | z_hat, text -> DDIM with the U-Net -> latent -> autoencoder -> x_hat
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from diffcodec.codec import Codec, Decoded
from diffcodec.coding.bitstream import derive_seed, seed_of_sample
from diffcodec.diffusion.sampler import find_sampler
from diffcodec.diffusion.tiling import check_window
from diffcodec.latent import low_rank
from diffcodec.latent.backbone import Backbone
from diffcodec.latent.captions import Captioner, choose_captions
from diffcodec.latent.sdxl import SDXLBackbone
from diffcodec.latent.text_coding import find_text_coder
from diffcodec.latent.tokenizer import WordTokenizer, caption_words
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.networks.precision import check_precision
from diffcodec.perco.captioners import FixedCaptioner
from diffcodec.perco.finetune import prepare_unet, several_processes, spread_over
from diffcodec.perco.model import LatentDiffusion, choose_hyper_encoders
from diffcodec.perco.payload import join_caption, read_payload
from diffcodec.perco.rate_points import build_points
from diffcodec.perco.rates import GRID_STEPS, Rate
from diffcodec.perco.settings import HyperEncoderSettings, TrainingSettings
from diffcodec.points import Point, listed
from diffcodec.training.few_steps import Resampled
from diffcodec.training.optimization import warmed_up_adamw
from diffcodec.training.perceptual import PerceptualLoss, check_choice
from diffcodec.training.sharding import shard
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of
from diffcodec.weights.model_folder import load_saved

WINDOW = 1024
MULTIPLE = 64  # pixels of a code at the lowest rates, and of the U-Net's coarsest grid
_UNET = "model.backbone.unet."
VALIDATION_DRAWS = 4  # timesteps and noises of each image
LPIPS_MIN_BPP = 0.05  # App. A: above it a loss in image space helps


class PerCo(Codec):
    """Perceptual compression at ultra-low rates (Careil et al., ICLR 2024).

    Args:
        backbone: latent diffusion model. Its autoencoder and text encoder stay frozen.
        rate: one or several rates, by name or as [grid, codes], see `diffcodec.perco.rates`. Each
            has a hyper-encoder; all share the U-Net, and a training step draws one rate. null: the
            rate of a PerCo (SD) checkpoint, or else 8x8/256.
        captioner: function images -> captions, see `diffcodec.perco.captioners`.
        text_coder: coder of the caption, `zlib` as in the paper, or `dictionary`.
        index_coder: coder of the codes: `uniform` as in the paper, `table` or `model`, see
            `diffcodec.perco.index_coder`.
        hyper_encoder: sizes and quantizer of the hyper-encoders.
        steps: number of DDIM steps; null is the paper's 20, or 5 from 0.05 bpp on.
        guidance: scale of the classifier-free guidance.
        guided: conditions that guidance drops: `text`, or `text_and_codes`, for the comparison in
            Table 1.
        condition: what is sent: `both`, `text` or `local` (codes only).
        caption: caption to send instead of the captioner's; null sends the captioner's.
        caption_max_bpp: largest rate, in spatial bits per pixel, at which a caption is sent beside
            the codes. null: every rate sends a caption, as in the paper.
        num_samples: number of reconstructions of each stream, as points `sample=0`, `sample=1`, ….
            steps, guidance, guided, condition and caption may be lists; the operating points are
            all combinations.
        noise_seed: seed of the decoder's noise; null derives it from each stream.
        grid_steps: number of timesteps that are trained and sampled.
        training: how the codec is trained.
        sampler: sampler of the decoder, `ddim` as in the paper, `dpmpp_2m` or `euler_sde`.
        spacing: spacing of the sampler's timesteps: `grid` for those of the training, or `leading`
            for those of Stable Diffusion 2.1's scheduler, which the public PerCo (SD) uses.
        decode_precision: precision of the U-Net in decoding, `32` or `bf16`.
        compile: `torch.compile` the U-Net, which takes minutes once.
        window: side in pixels, a multiple of 64, above which the networks process tiles. Tiles of
            the autoencoder are blended. Tiles of the U-Net are blended at every step, because the
            memory of its attention grows with the square of the area. The hyper-encoder's tiles
            are exact.
        weights: null, or a source of `diffcodec.weights`.

    Raises:
        ValueError: one of these is not among its choices, or the weights do not fit.
    """

    num_sections = 2
    reads_annotations = True

    def __init__(
        self,
        backbone: Backbone,
        rate: str | Sequence[str | Sequence[int]] | None = None,
        *,
        captioner: Captioner | None = None,
        text_coder: str = "zlib",
        index_coder: str = "uniform",
        hyper_encoder: HyperEncoderSettings = HyperEncoderSettings(),
        steps: int | Sequence[int] | None = None,
        guidance: float | Sequence[float] = 3.0,
        guided: str | Sequence[str] = "text",
        condition: str | Sequence[str] = "both",
        caption: str | Sequence[str | None] | None = None,
        caption_max_bpp: float | None = None,
        num_samples: int = 1,
        noise_seed: int | None = None,
        grid_steps: int = GRID_STEPS,
        training: TrainingSettings = TrainingSettings(),
        sampler: str = "ddim",
        spacing: str = "grid",
        decode_precision: str | int = "32",
        compile: bool = False,
        window: int = WINDOW,
        weights: str | None = None,
    ) -> None:
        check_window(window, MULTIPLE)
        if not isinstance(backbone, Backbone):
            raise ValueError(
                "PerCo needs a latent diffusion model with text, got a pixel-space model"
            )
        if isinstance(backbone, SDXLBackbone):
            raise ValueError("PerCo supports Stable Diffusion 1.x and 2.x, not XL")
        find_sampler(sampler)  # fail before the networks are built
        decode_precision = check_precision(decode_precision)
        check_choice(training.perceptual)
        parsed, hyper_encoder, state = choose_hyper_encoders(backbone, rate, hyper_encoder)
        points = build_points(
            parsed,
            steps=steps,
            guidance=guidance,
            guided=guided,
            condition=condition,
            caption=caption,
            num_samples=num_samples,
            grid_steps=grid_steps,
        )
        super().__init__(points)
        self.captioner = captioner or FixedCaptioner()
        self.text_coder = text_coder
        self._encode_text, self._decode_text = find_text_coder(text_coder)
        self.rates = sorted(parsed, key=lambda rate: rate.bpp)
        self.model = LatentDiffusion(
            backbone,
            self.rates,
            hyper_encoder=hyper_encoder,
            grid_steps=grid_steps,
            index_coder=index_coder,
            window=window,
        )
        for rate_, count in product(self.rates, listed(steps)):
            self.model.process.sampling_sigmas(count or rate_.default_steps, spacing)
        self.model.null_text.requires_grad_(training.learned_null)
        if state is not None:
            load_strict(self.model.encoder(0), state, source="the backbone's hyper-encoder")
        prepare_unet(backbone.unet, training.finetune, lora_rank=training.lora_rank)
        self.pretrained = self.model.adopt("the backbone's file") or state is not None
        self.quantize = hyper_encoder.quantize
        if training.checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        self.recipe = training  # `training` is the mode of the module
        self.caption_max_bpp = caption_max_bpp
        self.noise_seed = noise_seed
        self.sampler, self.spacing = sampler, spacing
        self.decode_precision = decode_precision
        self._perceptual: PerceptualLoss | None = None
        self._validation_loss = MeanMetric()
        self._trained_rates: set[int] = set()  # since the last optimizer step
        if compile:
            backbone.compile()
        if weights is not None:
            self.load_weights(weights)

    def _rate(self, point: Point) -> Rate:
        return next(rate for rate in self.rates if rate.name == point.rate["rate"])

    def _num_steps(self, point: Point, rate: Rate) -> int:
        if point.decoding["steps"] is None:
            return rate.default_steps
        return point.setting("steps", int)

    def _sends_caption(self, rate: Rate) -> bool:
        return self.caption_max_bpp is None or rate.bpp <= self.caption_max_bpp

    def load_weights(self, source: str) -> None:
        """Load trained weights; parts that they lack keep the backbone's weights.

        Args:
            source: a source of `diffcodec.weights`. It may contain more rates than this codec.

        Raises:
            ValueError: the source is not available, or does not fit this configuration.
        """
        state = state_dict_of(load_checkpoint(source))
        of_encoders, of_indices = "model.hyper_encoders.", "model.index_models."
        stored = {
            k.removeprefix(of_encoders).partition(".")[0]
            for k in state
            if k.startswith(of_encoders)
        }
        wanted = {rate.name for rate in self.rates}
        if not wanted <= stored:
            raise ValueError(
                f"{source} has no rate {', '.join(sorted(wanted - stored))}, "
                f"choose from {', '.join(sorted(stored))}"
            )
        other = [f"{part}{name}." for part in (of_encoders, of_indices) for name in stored - wanted]
        if self.model.index_coder == "uniform":
            other.append(of_indices)
        state = {k: v for k, v in state.items() if not k.startswith(tuple(other))}
        state = _with_updates_of(self.state_dict(), state)
        # Weights that were trained without index models can be used with them.
        load_saved(self, state, source=source, optional=[of_indices])

    def format_config(self) -> dict[str, Any]:
        coder = self.model.index_coder
        config: dict[str, Any] = {
            "rates": [rate.name for rate in self.rates],
            "text_coder": self.text_coder,
            **({} if coder == "uniform" else {"indices": f"{coder}, in halves"}),
            **({} if self.quantize else {"quantize": False, "vectors": "float32"}),
            "timesteps": self.model.process.timesteps.tolist(),
            "prediction": self.model.process.prediction,
        }
        if self.text_coder == "dictionary" or isinstance(
            self.model.backbone.tokenizer, WordTokenizer
        ):
            config["words"] = hashlib.sha256(caption_words().encode()).hexdigest()
        return config

    def decoding_state(self) -> dict[str, Tensor]:
        return self.model.decoding_state()

    def encode(
        self,
        x: Tensor,
        point: Point,
        captions: Sequence[str | None] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> list[list[bytes]]:
        """Encode images, see `Codec.encode`.

        Args:
            x: images (B, 3, H, W) in [0, 1].
            point: operating point.
            captions: captions to send instead of the captioner's.
            about: batch of the images, whose captions and names the captioner may use.
        """
        rate, condition = self._rate(point), point.encoding["condition"]
        if condition == "text" or (condition == "both" and self._sends_caption(rate)):
            fixed = point.encoding["caption"]
            captions = choose_captions(x, fixed, self.captioner, captions=captions, about=about)
        else:
            captions = [None] * len(x)
        index = self.rates.index(rate)
        payloads = []
        # One image at a time: the rounding of a convolution depends on the batch.
        for image, caption in zip(x.split(1), captions, strict=True):
            text = None if caption is None else self._encode_text(caption)
            has_local = condition != "text"
            codes = b""
            if has_local:
                codes = self.model.coder(index).encode(self.model.codes(image, index)[0])
            payloads.append([join_caption(index, text, has_local=has_local), codes])
        return payloads

    def num_part_bytes(self, sections: Sequence[bytes]) -> dict[str, int]:
        _, text, codes = read_payload(sections, len(self.rates))
        return {"text": len(text or b""), "codes": len(codes or b"")}

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        # Read all streams first, so that a bad one is reported before any is decoded.
        contents = [self._read(payload, height, width) for payload in payloads]
        if self.noise_seed is not None:
            seeds = [self.noise_seed] * len(seeds)
        images = []
        for (index, caption, codes), seed in zip(contents, seeds, strict=True):
            x_hat = self.model.reconstruct(
                height=height,
                width=width,
                caption=caption,
                index=index,
                codes=None if codes is None else codes[None].to(self.device),
                seed=seed_of_sample(seed, point.setting("sample", int)),
                num_steps=self._num_steps(point, self.rates[index]),
                guidance=point.setting("guidance", float),
                guided=point.setting("guided", str),
                sampler=self.sampler,
                spacing=self.spacing,
                precision=self.decode_precision,
            )
            images.append(x_hat)
        return Decoded(torch.cat(images))

    def resample(self, batch: dict[str, Any], point: Point) -> Resampled:
        """Decode the codes of the images of a batch at a point, see `FewStepTraining`.

        Only the U-Net and the null text get gradients. DiffC and DDCM use the same U-Net: either
        `finetune=low_rank` leaves it as it is, or its loss as a denoiser without codes is minimized
        as well.
        """
        rate, x = self._rate(point), batch["image"]
        with torch.no_grad():
            index = self.rates.index(rate)
            x0 = self.model.backbone.latents.encode(pad_to_multiple(x, rate.pixels_per_code))
            x0 = x0.float()
            local = self.model.encoder(index).dequantize(self.model.encoder(index).codes(x0))
            text = self.model.backbone.embed_text(
                [caption or "" for caption in self.captioner(x, batch)]
            )
            null = self.model.null_text.detach().expand_as(text)
        latent = self.model.sample_latent(
            torch.randn_like(x0),
            text=text if self._sends_caption(rate) else null,
            local=local.float(),
            noise=torch.randn_like,
            num_steps=self._num_steps(point, rate),
            guidance=point.setting("guidance", float),
            guided=point.setting("guided", str),
            sampler=self.sampler,
            spacing=self.spacing,
        )
        height, width = x.shape[-2:]
        x_hat = self.model.backbone.latents.decode(latent)[..., :height, :width]
        if self.recipe.finetune == "low_rank":
            return Resampled(x_hat)
        denoising = self.model.denoising_loss(x0, text)
        return Resampled(x_hat, loss=denoising, logged={"v_loss": denoising.detach()})

    def _read(
        self, payload: Sequence[bytes], height: int, width: int
    ) -> tuple[int, str | None, Tensor | None]:
        """Read both sections of an image: index of its rate, caption and codes.

        Raises:
            BitstreamError: the sections do not fit an image of this size.
        """
        index, text, codes = read_payload(payload, len(self.rates))
        caption = None if text is None else self._decode_text(text)
        if codes is None:
            return index, caption, None
        shape = self.rates[index].code_shape(height, width)
        return index, caption, self.model.coder(index).decode(codes, *shape)

    def ceiling(self, x: Tensor) -> Tensor:
        return self.model.backbone.latents.round_trip(x)

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        self.model.backbone.check_trainable()
        if self.recipe.lpips_weight > 0:
            self._perceptual = PerceptualLoss(
                self.recipe.perceptual,
                wanted_by="lpips_weight > 0",
                vgg_weights=self.recipe.vgg_weights,
            )
        if several_processes():
            for index in range(len(self.rates)):
                self.model.encoder(index).share_codebook()

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            self.shard(self.device_mesh["data_parallel"])

    def shard(self, mesh: Any) -> None:
        """Shard all parameters over the processes of a mesh, the U-Net's by its blocks.

        A sharded codec can be trained, but neither code nor be exported.
        """
        unet, text_encoder = self.model.backbone.unet, self.model.backbone.text_encoder
        blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks, unet, text_encoder)
        units = [block for block in blocks if block is not None]
        shard(self.model, mesh, units=units, methods=("losses",))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        # All processes must draw the same rate, because its codebook is averaged over them.
        generator = torch.Generator().manual_seed(self.global_step)
        index = int(torch.randint(len(self.rates), (), generator=generator))
        self._trained_rates.add(index)
        x = batch["image"]
        out = self.model.losses(
            x,
            self.captioner(x, batch),
            index,
            caption_drop=self.recipe.caption_drop,
            local_drop=self.recipe.local_drop,
            perceptual=self._perceptual if self.rates[index].bpp >= LPIPS_MIN_BPP else None,
        )
        loss = out["v_loss"] + self.recipe.commitment * out["commit_loss"]
        if "lpips_loss" in out:
            loss = loss + self.recipe.lpips_weight * out["lpips_loss"]
        for name, value in {"loss": loss, **out}.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "v_loss"))
        if several_processes() and not isinstance(self.model, FSDPModule):
            loss = loss + spread_over(self)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Run `Codec.validation_step`, and log the loss at fixed draws as `val/v_loss`."""
        images = batch["image"]
        captions = self.captioner(images, batch) if len(batch["index"]) else []
        for index, x, caption in zip(
            batch["index"].tolist(), images.split(1), captions, strict=True
        ):
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                torch.manual_seed(derive_seed([f"validation {index}".encode()]))
                several = x.expand(VALIDATION_DRAWS, -1, -1, -1)
                out = self.model.losses(
                    several, [caption] * VALIDATION_DRAWS, index % len(self.rates)
                )
            self._validation_loss.update(out["v_loss"])
        if captions:
            self.log("val/v_loss", self._validation_loss, prog_bar=True)
        return super().validation_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # On several processes, rates that were not drawn have zero gradients, with which AdamW
        # would still update them. On one process it skips them.
        for index in set(range(len(self.rates))) - self._trained_rates:
            for parameter in self.model.encoder(index).parameters():
                parameter.grad = None
        self._trained_rates.clear()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.recipe.lr,
            weight_decay=self.recipe.weight_decay,
            warmup_steps=self.recipe.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches if self.recipe.anneal else None,
        )


def _with_updates_of(own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for a U-Net that has low-rank updates or not, as `own` has.

    Updates that `own` does not have are merged. A U-Net without updates becomes updates of this
    one's, which keeps all other weights and the null text.
    """
    plain, updates = low_rank.split(state)
    if not low_rank.has_updates(own):
        return low_rank.merge(plain, updates)
    if updates or not any(name.startswith(_UNET) for name in state):
        return state
    kept = {k: v for k, v in own.items() if k.startswith(_UNET) or k == "model.null_text"}
    others = {k: v for k, v in state.items() if not k.startswith(_UNET)}
    return others | low_rank.fit(kept, state)
