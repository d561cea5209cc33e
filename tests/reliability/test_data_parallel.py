"""Two processes train as one with twice the batch, where both draw the same noise.

Draws are for the images of all processes here, of which each takes its own: that is what a training
does not do, see `Codec`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffcodec.codec import Codec
from experiments.cli import compose_config
from tests.reliability.test_resume import PARTS, is_trained
from tests.test_contract import NAMES, OVERRIDES, VARIANTS
from tests.trainers import quiet_trainer

NUM_STEPS = 10
BATCH_SIZE = 2  # of one process


class SharedDraws(TorchFunctionMode):
    """Random tensors whose rows are images: each process has those of its own images."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size
        self.generator = torch.Generator().manual_seed(0)
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options = dict(kwargs or {})
        if options.pop("generator", None) is not None:
            return func(*args, **(kwargs or {}))
        if func in (torch.rand, torch.randn):
            size = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
            options.pop("device", None)
            return self.rows(size, lambda n: func(n, generator=self.generator, **options))
        if func in (torch.randn_like, torch.rand_like):
            draw = torch.randn if func is torch.randn_like else torch.rand
            like = args[0]
            return self.rows(like.shape, lambda n: draw(n, generator=self.generator)).to(like)
        if func is torch.randint:
            *bounds, size = args
            return self.rows(size, lambda n: func(*bounds, n, generator=self.generator))
        if func is torch.multinomial:
            weights, count, *_ = args
            if not options.get("replacement"):  # one level for all images
                return func(weights, count, generator=self.generator)
            return self.rows(
                (count,), lambda n: func(weights, n[0], True, generator=self.generator)
            )
        if func is Tensor.uniform_:
            tensor, low, high = args
            noise = self.rows(tensor.shape, lambda n: torch.rand(n, generator=self.generator))
            return tensor.copy_(low + (high - low) * noise)
        assert func not in (Tensor.normal_, Tensor.bernoulli_, torch.bernoulli, torch.normal)
        return func(*args, **options)

    def rows(self, size: Sequence[int], draw: Callable[[list[int]], Tensor]) -> Tensor:
        """This process's rows of what is drawn for all; what is of no image is drawn alike."""
        size, own = list(size), BATCH_SIZE // self.world_size
        self.count += 1
        if len(size) == 3 and size[1] == 1 and size[0] != own:  # CompressAI's (C, 1, B * H * W)
            whole = draw([size[0], BATCH_SIZE, size[2] // own])
            return whole[:, self.rank :: self.world_size].reshape(size)
        if size and size[0] == own:
            return draw([BATCH_SIZE, *size[1:]])[self.rank :: self.world_size]
        return draw(size)


class Shared(Callback):
    """Trains by shared draws, and keeps the weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inside = ExitStack()

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        # Where a gradient is nothing but rounding, Adam divides it by itself.
        for group in trainer.optimizers[0].param_groups:
            group["eps"] = 1e-3
        self.draws = SharedDraws(trainer.global_rank, trainer.world_size)

    # Not around the loader, whose draws are those of the images anyway.
    def on_train_batch_start(self, *_: Any) -> None:
        self.inside.enter_context(self.draws)

    def on_train_batch_end(self, *_: Any) -> None:
        self.inside.close()

    def on_exception(self, *_: Any) -> None:
        self.inside.close()

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        assert trainer.global_step == NUM_STEPS
        derived = pl_module.derived_state() if isinstance(pl_module, Codec) else set()
        state = {k: v for k, v in pl_module.state_dict().items() if k not in derived}
        if trainer.global_rank == 0:
            torch.save(state, self.path)


def weights(
    make: Callable[[], LightningModule], datamodule: Any, path: Path, **options: Any
) -> dict[str, Tensor]:
    seed_everything(0, verbose=False)
    module = make()
    settings = {"max_steps": NUM_STEPS, "gradient_clip_val": 1.0, "limit_val_batches": 0}
    trainer = quiet_trainer(
        path.parent,
        callbacks=[Shared(path)],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **settings | options,
    )
    trainer.fit(module, datamodule=datamodule)
    return torch.load(path, weights_only=True)


def assert_same(make: Callable[[], LightningModule], make_datamodule: Any, folder: Path) -> None:
    torch.manual_seed(0)
    start = make().state_dict()
    one = weights(make, make_datamodule(batch_size=BATCH_SIZE), folder / "one.pt")
    two = weights(
        make, make_datamodule(batch_size=BATCH_SIZE // 2), folder / "two.pt", **TWO_PROCESSES
    )
    moved = worst = 0.0
    for name, tensor in one.items():
        worst = max(worst, float((two[name].double() - tensor.double()).abs().max()))
        if tensor.is_floating_point() and start[name].shape == tensor.shape:
            moved = max(moved, float((tensor - start[name]).abs().max()))
    assert worst <= 1e-5
    assert worst < moved / 20


# Forked: what is imported is there already.
TWO_PROCESSES: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}
# What takes the place of dead codes is drawn from all vectors of a batch, which is another draw.
EXACT = {"perco": ["codec.hyper_encoder.dead_code_threshold=0"]}
# Its loss depends on whether the rate of a process's images is above the target.
NOT_EXACT = {"hific"}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_a_codec_as_one_does(name, make_datamodule, tmp_path):
    torch.manual_seed(0)
    if not is_trained(name):
        pytest.skip("is not trained")
    if name in NOT_EXACT:
        pytest.skip("trains otherwise on several processes, and says so")

    def make() -> LightningModule:
        named = VARIANTS.get(name, [f"codec={name}"])
        overrides = [*named, *OVERRIDES.get(name, []), *EXACT.get(name, [])]
        return instantiate(compose_config(overrides).codec)

    assert_same(make, make_datamodule, tmp_path)


@pytest.mark.parametrize("name", PARTS)
def test_two_processes_train_a_part_as_one_does(name, make_datamodule, tmp_path):
    def make() -> LightningModule:
        return instantiate(compose_config([f"experiment={name}", *PARTS[name]]).part)

    assert_same(make, make_datamodule, tmp_path)
