"""Pretrained pixel-space priors: diffusers' UNet2DModel and OpenAI's checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.schedule import respaced_timesteps
from diffcodec.latent.pixel import load_unconditional
from diffcodec.sdedit.conventions import (
    Convention,
    Network,
    adm_convention,
    consistency_convention,
    convention_of,
    openai_edm_convention,
)
from diffcodec.sdedit.openai_checkpoints import (
    ADM_OPTIONS,
    ARCHITECTURES,
    convert,
    is_adm,
    split_options,
)
from diffcodec.sdedit.prior import Prior
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors")


class HubPrior(Prior):
    """Pretrained U-Nets of a fixed input size, applied to overlapping tiles.

    A source is one of:

    - a folder in diffusers' layout or a hub repository, such as `hf://google/ddpm-ema-bedroom-256`;
      its scheduler config sets the prediction type (EDM, consistency, or a discrete process with
      eps, v or x0);
    - one checkpoint file of OpenAI (see `diffcodec.weights`): a consistency model, an EDM teacher,
      or ADM (guided-diffusion). ADM is detected from the file's contents.

    Args:
        source: source of the denoiser, for medium and slow; None disables them.
        consistency: source of the consistency model, for fast; None disables it.
        architecture: architecture of OpenAI's files: a key of `ARCHITECTURES`, or options of
            UNet2DModel. For ADM the options also contain `noise_schedule` (`linear` or `cosine`)
            and `use_new_attention_order`, which the files do not record.
        class_label: class index for class-conditional networks.
        window: side of the tiles; None selects the networks' training size.

    Raises:
        ValueError: no source is given, or a source cannot be loaded, does not fit the architecture,
            or is of the other kind (denoiser or consistency model).
    """

    def __init__(
        self,
        source: str | None = None,
        consistency: str | None = None,
        *,
        architecture: str | Mapping[str, Any] = "lsun256",
        class_label: int = 0,
        window: int | None = None,
    ) -> None:
        if isinstance(architecture, str) and architecture not in ARCHITECTURES:
            raise ValueError(
                f"unknown architecture {architecture!r}, choose from {', '.join(ARCHITECTURES)}"
            )
        if source is None and consistency is None:
            raise ValueError(
                "the hub prior has no network: pass codec.prior.source or codec.prior.consistency"
            )
        options = ARCHITECTURES[architecture] if isinstance(architecture, str) else architecture
        networks: dict[str, Any] = {}
        self._conventions: dict[str, Convention] = {}
        for role, origin in (("denoiser", source), ("consistency", consistency)):
            if origin is None:
                continue
            network, convention = _load(origin, role == "consistency", options)
            if convention.is_consistency != (role == "consistency"):
                kind = "a consistency model" if convention.is_consistency else "a denoiser"
                raise ValueError(f"{origin} is {kind} and cannot be codec.prior.{_OPTION[role]}")
            networks[role], self._conventions[role] = network, convention
        super().__init__(window or min(_sample_size(n) for n in networks.values()))
        self.networks = nn.ModuleDict(networks)
        self.multiple = max(_stride(n) for n in networks.values())
        assert self.window is not None
        if self.window % self.multiple:
            raise ValueError(f"window must be a multiple of {self.multiple}, got {self.window}")
        self.max_sigma = min(c.max_sigma for c in self._conventions.values())
        self._class_label = class_label

    def unets(self) -> list[nn.Module]:
        return list(self.networks.values())

    def build_denoiser(self) -> Denoiser:
        return self._build("denoiser", "medium and slow")

    def build_consistency(self) -> Denoiser:
        return self._build("consistency", "fast")

    def build_ddpm(self) -> Denoiser:
        wrap = self._discrete().wrap_ddpm
        assert wrap is not None
        unet: Any = self.networks["denoiser"]
        return wrap(
            self._network("denoiser"), unet.config.out_channels == 2 * unet.config.in_channels
        )

    def ddpm_sigmas(self, steps: int) -> Tensor:
        sigmas = self._discrete().sigmas
        assert sigmas is not None
        levels = sigmas[respaced_timesteps(len(sigmas), steps)].flip(0)
        return torch.cat([levels, levels.new_zeros(1)])

    def _discrete(self) -> Convention:
        convention = self._conventions.get("denoiser")
        if convention is None or convention.sigmas is None:
            raise ValueError(self._no_ddpm())
        return convention

    def _build(self, role: str, presets: str) -> Denoiser:
        if role not in self.networks:
            raise ValueError(f"preset {presets} needs codec.prior.{_OPTION[role]}")
        network = self._network(role)
        # Drop the variance that some networks also predict.
        return self._conventions[role].wrap(lambda x, time: network(x, time)[:, :3])

    def _network(self, role: str) -> Network:
        unet: Any = self.networks[role]

        def network(x: Tensor, time: Tensor) -> Tensor:
            labels = None
            if unet.config.num_class_embeds is not None:
                labels = torch.full((len(x),), self._class_label, device=x.device)
            out: Tensor = unet(x, time, class_labels=labels).sample
            return out

        return network


_OPTION = {"denoiser": "source", "consistency": "consistency"}


def _load(source: str, is_consistency: bool, options: Mapping[str, Any]) -> tuple[Any, Convention]:
    from diffusers import UNet2DModel

    if source.partition("#")[0].endswith(CHECKPOINTS):
        state = state_dict_of(load_checkpoint(source))
        try:
            adm = is_adm(state)
        except ValueError as error:
            raise ValueError(f"weights from {source} do not fit: {error}") from error
        if adm and is_consistency:
            raise ValueError(f"{source} is an ADM denoiser and cannot be codec.prior.consistency")
        sizes, adm_options = split_options(options)
        if adm and set(adm_options) != set(ADM_OPTIONS):
            raise ValueError(
                f"{source} is a guided-diffusion checkpoint and needs {' and '.join(ADM_OPTIONS)}: "
                "pass codec.prior.architecture=adm256 or adm_imagenet64, or add these options"
            )
        unet: Any = UNet2DModel(**(sizes | ({"out_channels": 6} if adm else {})))
        by_heads = adm and not adm_options["use_new_attention_order"]
        head_dim = unet.config.attention_head_dim if by_heads else None
        converted = convert(state, unet.state_dict(), head_dim=head_dim)
        load_strict(unet, converted, source=source)
        if adm:
            return unet, adm_convention(adm_options["noise_schedule"])
        return unet, consistency_convention() if is_consistency else openai_edm_convention()
    unet, config = load_unconditional(source)
    return unet, convention_of(config)


def _sample_size(unet: Any) -> int:
    size = unet.config.sample_size
    if not isinstance(size, int):
        raise ValueError(
            f"the network's config has no image size ({size}): pass codec.prior.window"
        )
    return size


def _stride(unet: Any) -> int:
    return int(2 ** (len(unet.config.block_out_channels) - 1))
