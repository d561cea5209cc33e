"""MS-ILLM (Muckley et al., ICML 2023) from NeuralCompression's torch hub.

The pretrained weights are licensed under CC-BY-NC 4.0, which excludes commercial use.
"""

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.codec import Codec, Decoded
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.rans import guard_rans
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.points import Point, Setting, combine, listed
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of
from diffcodec.weights.local_files import is_folder, local_path
from diffcodec.weights.sources import one_at_a_time

log = logging.getLogger(__name__)

HUB = "facebookresearch/NeuralCompression"
VERY_LOW = ("vlo1", "vlo2")
QUALITIES = (*VERY_LOW, *range(1, 7))
DENIED = (
    'since June 2025 the server of the weights answers "access denied" (NeuralCompression issue '
    "245)"
)
STRIDE = 64
_MAX_LATENT_CHANNELS = 512


class MsIllm(Codec):
    """MS-ILLM, or its base model that is trained for mean squared error without the GAN.

    Args:
        quality: 1 to 6 (target rates 0.035, 0.07, 0.14, 0.3, 0.45 and 0.9 bpp), `vlo1` or `vlo2`
            (0.00218 and 0.00438 bpp, with GAN only; PerCo's baselines in Figs. 3 and 14), one or
            several. Each is a network, which is loaded when it is first selected.
        gan: select `msillm_quality_*` (true) or `noganms_quality_*` (false).
        repo: torch hub repository of the code, or a local clone of it.
        weights: source of `diffcodec.weights`, in which `{quality}` is replaced by the quality, as
            in `DIR/msillm_quality_{quality}.pth` or
            `hf://owner/repo/msillm_quality_{quality}.pth`. null selects the repository's download,
            whose server has denied access since June 2025.

    Raises:
        ValueError: a quality is unknown, or the network cannot be loaded.
    """

    num_sections = 2
    differentiable = True
    only_by_source = True  # one network per quality

    def __init__(
        self,
        quality: int | str | Sequence[int | str],
        *,
        gan: bool = True,
        repo: str = HUB,
        weights: str | None = None,
    ) -> None:
        asked = listed(quality)
        unknown = [q for q in asked if q not in QUALITIES]
        if unknown or not asked:
            raise ValueError(f"unknown quality {unknown or asked}, choose from {QUALITIES}")
        if not gan and set(asked) & set(VERY_LOW):
            raise ValueError(f"qualities {' and '.join(VERY_LOW)} need gan=true")
        qualities = sorted(asked, key=QUALITIES.index)
        super().__init__(combine(rate={"quality": qualities}))
        self._entry = "msillm_quality" if gan else "noganms_quality"
        self._repo, self._weights = repo, weights
        self.model: Any = self._load(qualities[0])
        log.warning("MS-ILLM's weights are CC-BY-NC 4.0: for non-commercial use only")

    def load_point(self, point: Point) -> None:
        if point.rate["quality"] != self._quality:
            self.model = self._load(point.rate["quality"])

    def format_config(self) -> dict[str, Any]:
        return {"entry": self._entry}

    def prepare_coding(self) -> None:
        # Keep the hyperprior on the CPU, so that entropy parameters do not depend on the device.
        self.model.update_tensor_devices("compress")

    def encode(self, x: Tensor, point: Point) -> list[list[bytes]]:
        payloads = []
        for image in x.split(1):
            out = self.model.compress(image, force_cpu=False)
            payloads.append([out.latent_strings[0], out.hyper_latent_strings[0]])
        return payloads

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        padded = (-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE)
        num_symbols = _MAX_LATENT_CHANNELS * padded[0] * padded[1] // 256
        images = []
        for sections in payloads:
            latent, hyper = (guard_rans(section, num_symbols) for section in sections)
            compressed = SimpleNamespace(
                latent_strings=[latent],
                hyper_latent_strings=[hyper],
                image_size=(height, width),
                padded_size=padded,
            )
            try:
                images.append(self.model.decompress(compressed, force_cpu=False))
            except (RuntimeError, ValueError, IndexError) as error:
                raise BitstreamError(f"the entropy decoder failed: {error}") from error
        return Decoded(torch.cat(images))

    def reconstruct(self, x: Tensor, point: Point) -> Tensor:
        self.load_point(point)
        height, width = x.shape[-2:]
        model = self.model
        y = model.encoder(pad_to_multiple(x, STRIDE))
        with torch.no_grad():
            z = model.hyper_analysis(y.cpu())
            z_hat, _ = model.hyper_bottleneck(z, training=False)
            means = model.hyper_synthesis_mean(z_hat).to(y)
            y_hat = (y - means).round() + means
        x_hat: Tensor = model.decoder(y + (y_hat - y).detach())
        return x_hat[..., :height, :width]

    def _load(self, quality: Setting) -> nn.Module:
        entry = f"{self._entry}_{quality}"
        origin = "local" if is_folder(local_path(self._repo)) else "github"
        try:
            with one_at_a_time():
                model: nn.Module = torch.hub.load(
                    self._repo,
                    entry,
                    source=origin,
                    trust_repo=True,
                    pretrained=self._weights is None,
                )
        except Exception as error:  # hub raises URLError, ImportError, RuntimeError and others
            raise ValueError(
                f"could not load {entry} from torch hub {self._repo}: {error}. The first load "
                f"needs network access, and {DENIED}. For your own weights pass "
                f"codec.weights=DIR/{self._entry}_{{quality}}.pth or hf://owner/repo/…, for a "
                "clone of the code codec.repo=DIR; diffcodec compare reads published curves"
            ) from error
        if self._weights is not None:
            source = self._weights.replace("{quality}", str(quality))
            load_strict(model, state_dict_of(load_checkpoint(source)), source=source)
        self._quality = quality
        return model.to(self.device).eval()
