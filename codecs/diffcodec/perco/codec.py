"""PerCo as a codec: codes and a caption are the bits, a latent diffusion model the decoder.

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
from diffcodec.points import Point, listed
from diffcodec.training.few_steps import Resampled
from diffcodec.training.optimization import warmed_up_adamw
from diffcodec.training.perceptual import PerceptualLoss, check_choice
from diffcodec.training.sharding import shard
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of
from diffcodec.weights.model_folder import load_saved

WINDOW = 1024
MULTIPLE = 64  # pixels of a code at the lowest rates, and of the U-Net's coarsest grid
VALIDATION_DRAWS = 4  # timesteps and noises of each image
LPIPS_MIN_BPP = 0.05  # App. A: above it a loss in image space helps


class PerCo(Codec):
    """Perceptual compression at ultra-low rates (Careil et al., ICLR 2024).

    Args:
        backbone: the latent diffusion model; its autoencoder and text encoder stay as they are.
        rate: one or several of `diffcodec.perco.rates`, by name or as [grid, codes]: one U-Net, a
            hyper-encoder each; training draws one per step. null: that of a PerCo (SD) checkpoint,
            or else 8x8/256.
        captioner: images -> captions, see `diffcodec.perco.captioners`.
        text_coder: `zlib` as in the paper, or `dictionary`.
        index_coder: of the codes: `uniform` as in the paper, `table` or `model`, see
            `diffcodec.perco.index_coder`.
        N, M, codebook_dim: of the hyper-encoders.
        quantize: false sends what would be quantised in single precision, many times the bits, as
            the paper does to compare with (Table 1). It is another model: train it so.
        cosine: search codes by cosine similarity, as Yu et al. (2022) do, from whom the paper has
            the dimension of its codes, and the public PerCo (SD); the paper does not say how it
            searches. False is Euclidean distance.
        codebook_decay, dead_code_threshold: of the codebooks' moving averages.
        steps: of DDIM; null is the paper's 20, or 5 from 0.05 bpp on.
        guidance: scale of the classifier-free guidance.
        guided: what it is on: `text`, or `text_and_codes`, which the paper compares with (Table 1).
        condition: `both`, `text` or `local`: what is sent.
        caption: is sent in place of the captioner's; null is the captioner's own.
        caption_max_bpp: rates of more spatial bits per pixel than that send no caption where both
            it and codes would be sent; null: all send one, as in the paper.
        num_samples: reconstructions of each stream, as points `sample=0`, `sample=1`, ….
            steps, guidance, guided, condition and caption may be lists: points are all
            combinations.
        noise_seed: of the decoder; null derives it from each stream.
        grid_steps: timesteps that are trained and sampled.
        finetune: `linear`, `all` or `lora`, see `diffcodec.perco.finetune`.
        lora_rank: of `lora`.
        checkpointing: make the U-Net's activations again in the backward pass in place of keeping
            them: less memory for more time, and the same training.
        lr, weight_decay, warmup_steps: of AdamW and its linear warm-up.
        anneal: let the learning rate fall to zero over the run; the paper's is constant.
        caption_drop, local_drop: share of training images whose caption is replaced by the learned
            embedding, and whose codes by zeros.
        learned_null: train the embedding of the missing caption, initialized with the empty text's;
            False keeps it, as the public PerCo (SD) does.
        commitment: weight of the commitment loss.
        lpips_weight: of the perceptual distance at rates of 0.05 bpp and more.
        perceptual, vgg_weights: that distance, LPIPS in the paper; see
            `diffcodec.training.perceptual`.
        sampler: `ddim`, as in the paper, `dpmpp_2m` or `euler_sde`, of the decoder.
        spacing: of its timesteps: `grid` over those of the training, or `leading`, those of Stable
            Diffusion 2.1's scheduler, which the public PerCo (SD) takes.
        decode_precision: `32` or `bf16`, of the U-Net in decoding.
        compile: `torch.compile` the U-Net: minutes once, then faster.
        window: side in pixels, a multiple of 64, of what the networks see at once. Of larger images
            the autoencoder's tiles are blended, and those of the U-Net, whose attention grows with
            the square of their area, at every step; the hyper-encoder's are exact.
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
        N: int = 192,
        M: int = 320,
        codebook_dim: int = 32,
        quantize: bool = True,
        cosine: bool = True,
        codebook_decay: float = 0.8,
        dead_code_threshold: float = 0,
        steps: int | Sequence[int] | None = None,
        guidance: float | Sequence[float] = 3.0,
        guided: str | Sequence[str] = "text",
        condition: str | Sequence[str] = "both",
        caption: str | Sequence[str | None] | None = None,
        caption_max_bpp: float | None = None,
        num_samples: int = 1,
        noise_seed: int | None = None,
        grid_steps: int = GRID_STEPS,
        finetune: str = "linear",
        lora_rank: int = 16,
        checkpointing: bool = False,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        warmup_steps: int = 10_000,
        anneal: bool = False,
        caption_drop: float = 0.1,
        local_drop: float = 0.0,
        learned_null: bool = True,
        commitment: float = 1.0,
        lpips_weight: float = 0.0,
        perceptual: str | None = None,
        vgg_weights: str | None = None,
        sampler: str = "ddim",
        spacing: str = "grid",
        decode_precision: str | int = "32",
        compile: bool = False,
        window: int = WINDOW,
        weights: str | None = None,
    ) -> None:
        check_window(window, MULTIPLE)
        if not isinstance(backbone, Backbone):
            raise ValueError("PerCo needs a latent diffusion model that takes text, not of pixels")
        if isinstance(backbone, SDXLBackbone):
            raise ValueError("PerCo goes over Stable Diffusion 1.x and 2.x, not over XL")
        find_sampler(sampler)  # is there
        decode_precision = check_precision(decode_precision)
        parsed, options, state = choose_hyper_encoders(
            backbone, rate, {"N": N, "M": M, "codebook_dim": codebook_dim, "cosine": cosine}
        )
        for name, value in (("caption_drop", caption_drop), ("local_drop", local_drop)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
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
        options |= {
            "quantize": quantize,
            "decay": codebook_decay,
            "dead_code_threshold": dead_code_threshold,
        }
        self.model = LatentDiffusion(
            backbone,
            self.rates,
            hyper_encoder=options,
            grid_steps=grid_steps,
            index_coder=index_coder,
            window=window,
        )
        for rate_, count in product(self.rates, listed(steps)):
            self.model.process.sampling_sigmas(count or rate_.default_steps, spacing)  # is there
        self.model.null_text.requires_grad_(learned_null)
        if state is not None:
            load_strict(self.model.encoder(0), state, source="the backbone's hyper-encoder")
        self.pretrained = self.model.adopt("the backbone's file") or state is not None
        prepare_unet(backbone.unet, finetune, lora_rank=lora_rank)
        self.quantize = quantize
        if checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        self.anneal = anneal
        self.caption_drop, self.local_drop = caption_drop, local_drop
        self.commitment = commitment
        self.lpips_weight = lpips_weight
        check_choice(perceptual)
        self.perceptual, self.vgg_weights = perceptual, vgg_weights
        self.caption_max_bpp = caption_max_bpp
        self.noise_seed = noise_seed
        self.sampler, self.spacing = sampler, spacing
        self.decode_precision = decode_precision
        self._perceptual: PerceptualLoss | None = None
        self._validation_loss = MeanMetric()
        self._trained_rates: set[int] = set()  # since the last step of the optimizer
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
        """Load what training changed; the rest stays the backbone's.

        Args:
            source: as in `diffcodec.weights`. It may hold more rates than this codec has.

        Raises:
            ValueError: it cannot be had, or does not fit this configuration.
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
        if not any(k.startswith(of_indices) for k in state):
            # What was trained without a model of its codes may be given one.
            own = {k: v for k, v in self.state_dict().items() if k.startswith(of_indices)}
            state |= own
        load_saved(self, state, source=source)

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
        """As `Codec.encode`.

        Args:
            x: the images.
            point: the operating point.
            captions: in place of the captioner's, if any.
            about: the batch that the images are of: its captions and names are the captioner's.
        """
        rate, condition = self._rate(point), point.encoding["condition"]
        if condition == "text" or (condition == "both" and self._sends_caption(rate)):
            fixed = point.encoding["caption"]
            captions = choose_captions(x, fixed, self.captioner, captions=captions, about=about)
        else:
            captions = [None] * len(x)
        index = self.rates.index(rate)
        payloads = []
        # One image at a time: what a convolution rounds depends on the batch it is part of.
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
        # All streams are read before the first picture is made: a bad one is known at once.
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

        Only the U-Net and the null text get gradients. The loss of the U-Net as a denoiser without
        codes is minimized as well, so that DiffC and DDCM can use the same weights.
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
        denoising = self.model.denoising_loss(x0, text)
        height, width = x.shape[-2:]
        return Resampled(
            self.model.backbone.latents.decode(latent)[..., :height, :width],
            loss=denoising,
            logged={"v_loss": denoising.detach()},
        )

    def _read(
        self, payload: Sequence[bytes], height: int, width: int
    ) -> tuple[int, str | None, Tensor | None]:
        """Both sections of an image -> number of its rate, caption and codes.

        Raises:
            BitstreamError: they are not what the encoder writes for an image of that size.
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
        if self.lpips_weight > 0:
            self._perceptual = PerceptualLoss(
                self.perceptual, wanted_by="lpips_weight > 0", vgg_weights=self.vgg_weights
            )
        if several_processes():
            for index in range(len(self.rates)):
                self.model.encoder(index).share_codebook()

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            self.shard(self.device_mesh["data_parallel"])

    def shard(self, mesh: Any) -> None:
        """Share out all parameters over the processes of a mesh: the U-Net's by its blocks.

        In this state it is trained, and neither codes nor is exported.
        """
        unet, text_encoder = self.model.backbone.unet, self.model.backbone.text_encoder
        blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks, unet, text_encoder)
        units = [block for block in blocks if block is not None]
        shard(self.model, mesh, units=units, methods=("losses",))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        # By the step, so that all processes draw the same: codebooks are averaged over them.
        generator = torch.Generator().manual_seed(self.global_step)
        index = int(torch.randint(len(self.rates), (), generator=generator))
        self._trained_rates.add(index)
        x = batch["image"]
        out = self.model.losses(
            x,
            self.captioner(x, batch),
            index,
            caption_drop=self.caption_drop,
            local_drop=self.local_drop,
            perceptual=self._perceptual if self.rates[index].bpp >= LPIPS_MIN_BPP else None,
        )
        loss = out["v_loss"] + self.commitment * out["commit_loss"]
        if "lpips_loss" in out:
            loss = loss + self.lpips_weight * out["lpips_loss"]
        for name, value in {"loss": loss, **out}.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "v_loss"))
        if several_processes() and not isinstance(self.model, FSDPModule):
            loss = loss + spread_over(self)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """As `Codec.validation_step`, and the loss at fixed draws, as `val/v_loss`."""
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
        # On several processes the others have zero gradients: AdamW would go on with its
        # averages, where it leaves them alone on one process.
        for index in set(range(len(self.rates))) - self._trained_rates:
            for parameter in self.model.encoder(index).parameters():
                parameter.grad = None
        self._trained_rates.clear()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches if self.anneal else None,
        )
