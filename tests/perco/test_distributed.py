import json
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffcodec.perco.hyper_encoder import HyperEncoder
from diffcodec.perco.rates import Rate
from tests.warm import run_module


def _train(rank: int, port: int, share: bool, results: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    encoder = HyperEncoder(Rate(16, 16), N=8, M=12, codebook_dim=4).train()
    if share:
        encoder.share_codebook()
    torch.manual_seed(1 + rank)
    for _ in range(3):
        encoder(torch.randn(2, 4, 16, 16))
    results[rank] = encoder.quantizer.codebook.clone()
    dist.destroy_process_group()


@pytest.mark.parametrize("share", [True, False])
def test_codebooks_stay_the_same_on_two_processes(share):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked: what is imported is there already.
    context = mp.get_context("fork")
    with context.Manager() as manager:
        results = manager.dict()
        workers = [
            context.Process(target=_train, args=(rank, port, share, results)) for rank in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert torch.equal(results[0], results[1]) == share


SMALL_RUN = (
    *("codec=perco", "codec.steps=1", "codec.backbone.weights=null"),
    *("codec.backbone.unet_channels=[16,32]", "logger=none", "callbacks.progress=null"),
    "callbacks.evaluation.metrics=[psnr-rgb,ms-ssim-rgb,fd_random]",
    "allow_untrained=true",
    "+datamodule.eval_transform={_target_: torchvision.transforms.v2.CenterCrop, size: 64}",
)


def _run(folder: Path, *overrides: str) -> dict:
    options = (*SMALL_RUN, f"hydra.run.dir={folder}", *overrides)
    done = run_module("experiments.run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "curve.json").read_text())["results"]


@pytest.mark.slow
def test_two_processes_train_and_one_measures_the_same(tmp_path):
    two = _run(
        tmp_path / "two",
        "trainer=ddp_cpu",
        "trainer.max_steps=4",
        "codec.training.warmup_steps=2",
        "fit=true",
    )
    checkpoint = tmp_path / "two" / "checkpoints" / "last.ckpt"
    one = _run(tmp_path / "one", "trainer=cpu", "fit=false", f"ckpt_path={checkpoint}")
    timed = [name for name in one if "second" in name or "time" in name]
    for name in one.keys() - timed:
        assert one[name] == pytest.approx(two[name], rel=1e-6), name
