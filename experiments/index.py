"""List the images below a folder in a file, so that a run need not search it.

    python -m experiments.index DIR/train.txt.xz DIR/train [--sizes]
    python -m experiments.run datamodule.root=DIR datamodule.train.path=train \
        datamodule.train.index=train.txt.xz …

`datamodules.index_file` describes the format; .gz, .bz2 and .xz are compressed. `--sizes` adds
height and width of each image, which `min_side` and batched evaluation need, and skips images that
cannot be read.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from datamodules.files import SUFFIXES, ImageReadError, image_files, image_size
from datamodules.index_file import Size, write_index
from experiments.cli import fail

log = logging.getLogger(__name__)


def index(file: Path, folder: Path, *, sizes: bool = False) -> int:
    """Write the index of a folder; returns the number of images.

    Raises:
        ValueError: the folder does not exist or has no images, or a path cannot be listed.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: the index comes first, then the folder of images")
    if file.suffix.lower() in SUFFIXES:
        raise ValueError(f"{file} has the name of an image file: rename the index")
    file.parent.mkdir(parents=True, exist_ok=True)
    count = write_index(file, _images(folder, sizes=sizes))
    if not count:
        file.unlink()
        raise ValueError(f"no image below {folder}")
    return count


def _images(folder: Path, *, sizes: bool) -> Iterator[tuple[str, Size | None]]:
    for path in image_files(folder):
        try:
            size = image_size(path) if sizes else None
        except ImageReadError as error:
            log.warning("%s; skipped", error)
            continue
        yield path.relative_to(folder).as_posix(), size


def main(arguments: list[str]) -> None:
    """Entry point of `python -m experiments.index`."""
    description, _, epilog = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="experiments.index",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", action="store_true", help="add height and width of each image")
    options = parser.parse_args(arguments)
    try:
        count = index(options.file, options.folder, sizes=options.sizes)
    except (OSError, ValueError) as error:
        fail(error)
    print(f"{options.file}: {count} images")


if __name__ == "__main__":
    main(sys.argv[1:])
