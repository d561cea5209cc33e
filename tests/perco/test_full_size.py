"""PerCo on Stable Diffusion 2.1's sizes with random weights: time and memory, with `-s`.

In bfloat16 where the processor computes with it; emulated it would take an hour.
"""

import resource
import time

import pytest
import torch
from torch.utils.data import DataLoader

from diffcodec.latent.stable_diffusion import blank_stable_diffusion
from diffcodec.networks.precision import training_precision
from diffcodec.perco import PerCo
from diffcodec.perco.captioners import FixedCaptioner
from tests.trainers import quiet_trainer

PRECISION = training_precision("cpu")
HALF = PRECISION == "bf16-mixed"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def peak() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def full_size_codec(memory: str, **options) -> PerCo:
    backbone = blank_stable_diffusion("sd21")
    backbone.hold(memory)
    return PerCo(backbone, "8x8/256", captioner=FixedCaptioner("a red boat"), **options)


def test_coding_at_full_size(photo):
    """A 512x512 picture, two steps with guidance."""
    memory, precision = ("all", "bf16") if HALF else ("full", "32")
    codec = full_size_codec(memory, steps=2, decode_precision=precision).eval()
    codec.fingerprint()
    built = peak()
    start = time.perf_counter()
    streams = codec.compress(photo)
    encoded = time.perf_counter()
    x_hat = codec.decompress(streams)
    print(
        f"\n{encoded - start:.1f} s to encode, {time.perf_counter() - encoded:.1f} s to decode, "
        f"{peak():.1f} GiB at most, {built:.1f} GiB to build it"
    )
    assert x_hat.shape == photo.shape
    assert x_hat.isfinite().all()


def test_a_training_step_at_full_size(photo, tmp_path):
    """Batch 1 of 512x512, as `experiment=perco/paper` trains, with checkpointed activations."""
    memory = "frozen" if HALF else "full"
    codec = full_size_codec(memory, finetune="linear", warmup_steps=0, checkpointing=True)
    data = [{"image": photo[0], "index": 0, "name": "photo.png"}]
    before = codec.model.backbone.unet.mid_block.attentions[0].proj_in.weight.clone()
    trainer = quiet_trainer(
        tmp_path, max_steps=1, precision=PRECISION, num_sanity_val_steps=0, logger=False
    )
    start = time.perf_counter()
    trainer.fit(codec, DataLoader(data, batch_size=1))
    print(f"\n{time.perf_counter() - start:.1f} s a step, {peak():.1f} GiB at most")
    assert not torch.equal(codec.model.backbone.unet.mid_block.attentions[0].proj_in.weight, before)
    assert trainer.callback_metrics["train/loss"].isfinite()
