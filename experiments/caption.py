"""Caption the images of a data set once, for `codec/captioner=file`.

    python -m experiments.caption FOLDER codec/captioner=blip2 datamodule=… [key=value …]
    python -m experiments.run codec/captioner=file codec.captioner.path=FOLDER …

Whole images are captioned, while training would caption a new crop every time. Captions that FOLDER
already has are kept, so repeat the command to resume. Several processes share the images: under
torchrun or Slurm they know their share, otherwise pass `--share 0/4` to `--share 3/4`.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from experiments.cli import compose_config, fail, quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.image_sets import Item

log = logging.getLogger(__name__)

# Rank and world size, as set by torchrun and Slurm.
_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


def caption(
    folder: Path,
    overrides: Sequence[str],
    *,
    split: str = "train",
    batch_size: int = 16,
    share: tuple[int, int] = (0, 1),
) -> int:
    """Append missing captions to this process's file in a folder.

    Args:
        folder: created if necessary.
        overrides: of the config; the codec is PerCo, for its captioner.
        split: of the datamodule: `train`, `val` or `test`.
        batch_size: images per call of the captioner.
        share: (k, n): this process takes every n-th image, starting at the k-th.

    Returns:
        The number of captioned images.

    Raises:
        ValueError: a setting is wrong, or the captioner returned no caption.
    """
    import torch
    from hydra.utils import instantiate
    from rich.progress import track

    from datamodules.annotations import caption_lines
    from diffcodec.perco.captioners import caption_images

    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    given = any(o.startswith("codec=") for o in overrides)
    cfg = compose_config([*([] if given else ["codec=perco"]), *overrides])
    if not cfg.codec or "captioner" not in cfg.codec:
        raise ValueError("this codec has no captioner: use codec=perco")
    quiet_libraries()
    datamodule = instantiate(cfg.datamodule)
    datamodule.prepare_data()
    dataset = datamodule.dataset(split)
    if dataset is None:
        raise ValueError(f"datamodule {datamodule.name!r} has no {split} images")
    folder.mkdir(parents=True, exist_ok=True)
    done = {name for name, _ in caption_lines(folder)}
    items = [item for item in dataset.items[share[0] :: share[1]] if item.name not in done]
    captioner = instantiate(cfg.codec.captioner, _convert_="all")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not items:
        return 0
    written = 0
    with _new_file(folder, share[0]) as file:
        for first in track(
            range(0, len(items), batch_size), "captioning", disable=len(items) < 2, transient=True
        ):
            pairs = list(_readable(items[first : first + batch_size]))
            images = [image.to(device) for _, image in pairs]
            for (name, _), text in zip(pairs, caption_images(captioner, images), strict=True):
                if text is None:
                    raise ValueError(f"the captioner returned no caption for {name!r}")
                file.write(json.dumps({"name": name, "caption": text}, ensure_ascii=False) + "\n")
            file.flush()
            written += len(pairs)
    return written


def _readable(items: "Sequence[Item]") -> "Iterator[tuple[str, Tensor]]":
    """Names and images (3, H, W) in [0, 1] of the readable images."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    from datamodules.files import ImageReadError, read_rgb

    for item in items:
        try:
            image = read_rgb(item.paths[0])
        except ImageReadError as error:
            log.warning("%s; it has no caption", error)
            continue
        yield item.name, pil_to_tensor(image).float().div(255)


def _new_file(folder: Path, number: int) -> TextIO:
    """A new file that no other process writes to."""
    for attempt in count():
        try:
            return (folder / f"{number:05d}-{attempt}.jsonl").open("x", encoding="utf-8")
        except FileExistsError:
            continue
    raise AssertionError


def parse_share(text: str | None) -> tuple[int, int]:
    """`K/N` -> (K, N); None: from torchrun or Slurm, or all images.

    Raises:
        ValueError: it has another form, or K is not below N.
    """
    if text is None:
        for rank, size in _RANKS:
            if rank in os.environ and size in os.environ:
                return int(os.environ[rank]), int(os.environ[size])
        return 0, 1
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ValueError(f"--share must be K/N with K from 0 to N - 1, got {text!r}")
    return int(number), int(of)


def main(arguments: list[str]) -> None:
    """Entry point of `python -m experiments.caption`."""
    description, _, epilog = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="experiments.caption",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--split", default="train", help="train (default), val or test")
    parser.add_argument("--batch-size", type=int, default=16, help="images at once, 16")
    parser.add_argument("--share", help="K/N: every N-th image from the K-th on")
    options = parser.parse_intermixed_args(arguments)
    try:
        if "=" in str(options.folder):
            raise ValueError(f"the folder of captions comes first, got {options.folder}")
        written = caption(
            options.folder,
            options.overrides,
            split=options.split,
            batch_size=options.batch_size,
            share=parse_share(options.share),
        )
    except (OSError, ValueError) as error:
        fail(error)
    print(f"{options.folder}: {written} captions")


if __name__ == "__main__":
    main(sys.argv[1:])
