"""Estimates the memory of a PerCo training on each of several GPUs.

One step is taken on fake tensors under torch's memory tracker of FSDP2; nothing is loaded or
computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.downloads import find_source

if TYPE_CHECKING:
    from diffcodec.perco import PerCo

GIB = 1 << 30
CROP = 512  # side of the training crops in pixels


@dataclass(frozen=True)
class Estimate:
    """Bytes on one of several GPUs.

    Attributes:
        world_size: number of GPUs.
        batch_size: images per GPU.
        peak: of a step.
        parts: of the peak, by torch's names, the largest first.
    """

    world_size: int
    batch_size: int
    peak: int
    parts: dict[str, int]

    def __str__(self) -> str:
        parts = ", ".join(f"{name.lower()} {n / GIB:.1f}" for name, n in self.parts.items())
        return f"{self.world_size} GPU(s): {self.peak / GIB:.1f} GiB each ({parts})"


def has_estimate(cfg: DictConfig) -> bool:
    """Whether the sizes of a config's networks are known: PerCo over a Stable Diffusion."""
    return _size_of(cfg) is not None


def estimate(cfg: DictConfig, world_size: int, *, crop: int = CROP) -> Estimate:
    """Memory of a training step on each of several GPUs under `trainer=fsdp`.

    It excludes CUDA's context (a few hundred MiB), workspaces of cuDNN, and LPIPS; attention is as
    in the fused kernels.

    Args:
        cfg: PerCo over a Stable Diffusion, with its batch size and precision.
        world_size: number of GPUs.
        crop: side of the training images in pixels.

    Raises:
        ValueError: the sizes of the networks are not known.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    from diffcodec.perco.model import LatentDiffusion

    size = _size_of(cfg)
    if size is None:
        raise ValueError("estimates are available only for PerCo over Stable Diffusion 1.5 or 2.1")
    batch_size = int(cfg.datamodule.batch_size)
    half = str(cfg.trainer.precision).startswith("bf16")
    with _one_of(world_size) as mesh, FakeTensorMode():
        codec = _blank(cfg, size)
        codec.shard(mesh)
        # The tracker sees module calls, while a training calls this method.
        codec.model.forward = partial(LatentDiffusion.losses, codec.model)
        trained = [p for p in codec.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=False)
        # The first step creates the optimizer states at its end; later steps have them.
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        x = torch.rand(batch_size, 3, crop, crop)
        tracker = FSDPMemTracker(codec.model, optimizer)
        tracker.track_inputs((x,))
        with tracker:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                losses = codec.model(x, [""] * batch_size, 0, caption_drop=0.1)
                loss = losses["v_loss"] + losses["commit_loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    found = {str(getattr(k, "value", k)): int(n) for k, n in snapshot.items()}
    peak = found.pop("Total")
    parts = dict(sorted(((k, n) for k, n in found.items() if n), key=lambda p: -p[1]))
    return Estimate(world_size, batch_size, peak, parts)


def _size_of(cfg: DictConfig) -> str | None:
    from diffcodec.latent.stable_diffusion import SIZES

    codec = cfg.get("codec")
    if codec is None or not str(codec.get("_target_")).endswith(".PerCo"):
        return None
    source = str(codec.backbone.get("source"))
    entry = find_source(source) if source.startswith("hf://") else None
    return entry.name if entry is not None and entry.name in SIZES else None


def _blank(cfg: DictConfig, size: str) -> "PerCo":
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from diffcodec.latent.stable_diffusion import blank_stable_diffusion

    settings: Any = OmegaConf.to_container(cfg.codec, resolve=True)
    settings |= {"captioner": None, "weights": None}
    del settings["backbone"]
    settings |= {name: instantiate(settings[name]) for name in ("hyper_encoder", "training")}
    codec: PerCo = instantiate(settings, backbone=blank_stable_diffusion(size), _recursive_=False)
    return codec.train()


@contextmanager
def _one_of(world_size: int) -> Iterator[Any]:
    """The mesh of several processes, of which this is the first; nothing is communicated."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield init_device_mesh("cpu", (world_size,))
    finally:
        dist.destroy_process_group()
