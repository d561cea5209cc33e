"""FSDP2 on the CPU, by gloo, at the level of torch: Lightning's strategy takes GPUs alone."""

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra.utils import instantiate
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from diffcodec.perco import PerCo
from experiments.cli import compose_config
from experiments.run import _check_sharding
from tests.latent.tiny import tiny_backbone
from tests.perco.tiny import SIZES, arguments

MAX_NORM = 0.05
NUM_STEPS = 3


def build() -> PerCo:
    torch.manual_seed(0)
    codec = PerCo(tiny_backbone(), ("16x16/16",), **arguments(**SIZES, finetune="all"))
    # Codebooks change in the forward pass, by what each process saw.
    for encoder in codec.model.hyper_encoders.values():
        encoder.requires_grad_(False)
    return codec.train()


def loss_of(codec: PerCo, rank: int, step: int) -> torch.Tensor:
    torch.manual_seed(10 * step + rank)
    x = torch.rand(2, 3, 64, 64)
    for encoder in codec.model.hyper_encoders.values():
        encoder.eval()
    return codec.model.losses(x, ["red", None], 0, caption_drop=0.5)["v_loss"]


def optimizer_of(codec: PerCo) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in codec.parameters() if p.requires_grad], lr=0.1)


def train_sharded(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    codec = build()
    codec.shard(init_device_mesh("cpu", (2,)))
    assert all(isinstance(p, DTensor) for p in codec.model.parameters())
    optimizer, norms = optimizer_of(codec), []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        loss_of(codec, rank, step).backward()
        norm = clip_grad_norm_([p for p in codec.parameters() if p.grad is not None], MAX_NORM)
        norms.append(float(norm.full_tensor()))
        optimizer.step()
    state = {name: p.full_tensor() for name, p in codec.named_parameters()}
    if rank == 0:
        torch.save({"state": state, "norms": norms}, folder / "sharded.pt")
    dist.destroy_process_group()


def test_recipes_keep_their_clipping():
    cfg = compose_config(["experiment=perco/paper", "trainer=fsdp"])
    assert (
        cfg.trainer.gradient_clip_val
        == compose_config(["experiment=perco/paper", "trainer=ddp"]).trainer.gradient_clip_val
    )
    assert cfg.trainer.gradient_clip_val
    assert isinstance(instantiate(cfg.trainer.strategy), ModelParallelStrategy)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["codec=mbt2018_mean_vbr", "fit=true"],
            "VariableRateCodec does not have: choose trainer=ddp",
        ),
        (["codec=perco"], "trainer=fsdp is for training only; measure with trainer=gpu"),
        (["experiment=perco/small", "codec=perco"], "callbacks.average=null"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_the_first_step(overrides, message):
    cfg = compose_config([*overrides, "trainer=fsdp"])
    with pytest.raises(ValueError, match=message):
        _check_sharding(instantiate(cfg.codec), cfg)


@pytest.mark.slow
def test_two_processes_that_share_perco_train_it_as_one_with_both_batches(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("fork")  # what is imported is there already
    workers = [
        context.Process(target=train_sharded, args=(rank, port, tmp_path)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    sharded = torch.load(tmp_path / "sharded.pt", weights_only=True)

    codec = build()
    optimizer = optimizer_of(codec)
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        for rank in range(2):
            (loss_of(codec, rank, step) / 2).backward()
        parameters = [p for p in codec.parameters() if p.grad is not None]
        norm = float(clip_grad_norm_(parameters, MAX_NORM))
        assert norm > MAX_NORM
        assert sharded["norms"][step] == pytest.approx(norm, rel=1e-4)
        optimizer.step()
    for name, parameter in codec.named_parameters():
        torch.testing.assert_close(sharded["state"][name], parameter.detach(), atol=1e-5, rtol=1e-5)
