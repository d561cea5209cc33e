"""Runs everything that has tensors on the simulated device; writes a line of JSON for each check.

    python -m tests.simulated_cuda_checks FILE

Each line is the name of a check and what went wrong, or null.
"""

import copy
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from skimage import data
from torch import Tensor

from diffcodec.metrics import all_metrics
from diffcodec.metrics.metric import AnnotatedMetric, ImageMetric, SetMetric
from diffcodec.perco.blip2 import Blip2Captioner
from diffcodec.perco.inversion import _Clip
from diffcodec.perco.palette import PaletteCaptioner
from tests.metrics.tiny import save_clip, save_inception, save_segformer
from tests.perco.tiny import save_blip2
from tests.simulated_cuda import GPU, SimulatedCuda, prepare
from tests.test_contract import NAMES, UNAVAILABLE, build_lively

TOLERANCE = 1e-4  # of pictures and values: another order of the same sums
PHOTO = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None, :, 100:164, 200:264] / 255


def to_gpu(module: torch.nn.Module) -> torch.nn.Module:
    with SimulatedCuda():
        return module.to(GPU)


def codes_alike(name: str) -> None:
    """The same bytes and pictures as on the CPU, also under autocast."""
    codec = build_lively(name).codec
    point = codec.points[0 if codec.progressive else -1]
    streams = codec.compress(PHOTO, point)
    picture = codec.decompress(streams, point)
    simulated = codec.simulate(PHOTO, point).x_hat
    to_gpu(codec)
    with SimulatedCuda(), torch.no_grad():
        x = PHOTO.to(GPU)
        for context in (nullcontext(), torch.autocast("cuda", torch.bfloat16)):
            with context:
                assert codec.compress(x, point) == streams
                assert_close(codec.decompress(streams, point), picture)
        assert_close(codec.simulate(x, point).x_hat, simulated)


def trains(name: str) -> None:
    """The loss of a training step, with and without autocast; its gradients cannot be had."""
    codec = build_lively(name).codec
    if not codec.trainable:
        return
    codec.train()
    codec.log = lambda *_, **__: None
    to_gpu(codec)
    with SimulatedCuda(), torch.no_grad():
        batch = {"image": PHOTO.repeat(2, 1, 1, 1).to(GPU), "name": ["a", "b"]}
        for context in (nullcontext(), torch.autocast("cuda", torch.bfloat16)):
            with context:
                loss = copy.deepcopy(codec.training_step(batch, 0).cpu())
            assert loss.isfinite(), loss


def measures_alike(metric: Any, measure: Any) -> None:
    """A metric's network has the values that it has on the CPU."""
    x = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[:, :180, :200].contiguous()
    x_hat = (x // 2) * 2
    if isinstance(metric, SetMetric):
        arguments = (torch.stack([x[:, :96, :96], x_hat[:, :96, :96]]),)
    elif isinstance(metric, AnnotatedMetric):
        labels = torch.zeros(180, 200, dtype=torch.uint8)
        arguments = (labels, x_hat) if metric.annotation == "label_map" else ("a dog", x_hat)
    else:
        arguments = (x, x_hat)
    expected = measure(*arguments)
    if isinstance(measure, torch.nn.Module):
        to_gpu(measure)
    with SimulatedCuda(), torch.no_grad():
        moved = [a.to(GPU) if isinstance(a, Tensor) and a.dim() > 2 else a for a in arguments]
        assert_close(measure(*moved), expected)


def captions_alike(captioner: Callable[[Tensor], list[str]], expected: list[str]) -> None:
    """A captioner says the same of images on the device."""
    with SimulatedCuda(), torch.no_grad():
        assert captioner(PHOTO.to(GPU)) == expected


def embeds_alike(clip: _Clip) -> None:
    """Prompt inversion searches on the CPU, with gradients: it takes images from the device."""
    expected = clip.embed_image(PHOTO[0])
    with SimulatedCuda(), torch.no_grad():
        assert_close(clip.embed_image(PHOTO[0].to(GPU)), expected)


def finds_what_is_left_behind() -> None:
    """The rules themselves: what CUDA refuses is refused, and what it lets mix is not."""
    with SimulatedCuda(), torch.no_grad():
        x, y = torch.ones(3).to(GPU), torch.ones(3)
        for wrong in (lambda: x + y, lambda: torch.cat([x, y]), lambda: y[x.long()]):
            try:
                wrong()
            except RuntimeError:
                continue
            raise AssertionError("tensors of two devices were mixed")
        assert (x + torch.tensor(1.0)).tolist() == [2.0] * 3
        assert x[torch.tensor([0, 1])].tolist() == [1.0] * 2
        assert x.cpu().add(y).tolist() == [2.0] * 3


def assert_close(found: object, expected: object) -> None:
    found = found.cpu() if isinstance(found, Tensor) else torch.tensor(found)
    found = getattr(found, "held", found)
    expected = expected if isinstance(expected, Tensor) else torch.tensor(expected)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE, check_dtype=False)


def checks(folder: Path) -> dict[str, Callable[[], None]]:
    """All of them by name."""
    alexnet = folder / "alexnet.pt"
    import torchvision

    torch.save(torchvision.models.alexnet().state_dict(), alexnet)
    clip = save_clip(folder / "clip")
    sources: dict[str, str | None] = {
        **{"inception": save_inception(folder / "inception.pt"), "lpips": str(alexnet)},
        **{"clip_score": clip, "miou": save_segformer(folder / "segformer")},
    }
    found: dict[str, Callable[[], None]] = {}
    for name in NAMES:
        if name not in UNAVAILABLE:
            found[f"codec {name}"] = partial(codes_alike, name)
            found[f"training {name}"] = partial(trains, name)
    for key, metric in all_metrics().items():
        if isinstance(metric, (ImageMetric, AnnotatedMetric, SetMetric)) and (
            metric.default or key in sources
        ):
            taker = metric.embedding if isinstance(metric, SetMetric) else key
            found[f"metric {key}"] = partial(
                measures_alike, metric, metric.build(sources.get(taker))
            )
    blip2 = Blip2Captioner(save_blip2(folder / "blip2"), cache=str(folder / "captions"))
    for name, captioner in (("palette", PaletteCaptioner()), ("blip2", blip2)):
        found[f"captioner {name}"] = partial(captions_alike, captioner, captioner(PHOTO))
    found["captioner inversion"] = partial(embeds_alike, _Clip(clip, 3))
    found["a tensor that is left behind"] = finds_what_is_left_behind
    return found


def main(path: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, path.open("w") as file:
        every = checks(Path(folder))  # networks are read from files before torch is changed
        prepare()
        for name, check in every.items():
            wrong = None
            try:
                check()
            except Exception:
                wrong = traceback.format_exc()
            file.write(json.dumps([name, wrong]) + "\n")
            file.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
