"""Sources of images: each lists the items of one split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from importlib.resources import files
from itertools import islice, permutations
from pathlib import Path
from typing import ClassVar, Protocol, overload

from datamodules import kodak
from datamodules.annotations import Names, read_all_captions, read_names, shipped_names
from datamodules.files import SUFFIXES, ImageReadError, image_size, list_images
from datamodules.index_file import Index, read_index
from datamodules.label_maps import LabelMap


@dataclass(frozen=True)
class Item:
    """One image of a set.

    Attributes:
        name: unique in its set; used in rows and file names.
        paths: the file, or the frames of a clip, of which training draws one.
        caption: if the source has one.
        score_caption: another caption, which nothing is conditioned on.
        label_map: the classes of its pixels.
        size: height and width in pixels, if the source knows them.
    """

    name: str
    paths: tuple[Path, ...]
    caption: str | None = None
    score_caption: str | None = None
    label_map: LabelMap | None = None
    size: tuple[int, int] | None = None


class IndexedItems(Sequence[Item]):
    """The images of an index, created on access: a list of millions takes gigabytes.

    Args:
        folder: that the paths are relative to.
        index: paths and sizes.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.listed = index

    def __len__(self) -> int:
        return len(self.listed)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "IndexedItems": ...
    def __getitem__(self, index: int | slice) -> "Item | IndexedItems":
        if isinstance(index, slice):
            return IndexedItems(self.folder, self.listed[index])
        path, size = self.listed[index]
        return Item(path, (self.folder / path,), size=size)


class Source(Protocol):
    """Lists the images of one split."""

    def prepare(self, root: Path | None) -> None:
        """Download what is missing; one process per machine calls it before `items`."""

    def items(self, root: Path | None) -> Sequence[Item]:
        """The images, in a fixed order. `root` is the datamodule's folder.

        Raises:
            ValueError: the images are missing; the message states what is expected.
        """
        ...


@dataclass(frozen=True)
class Folder(Source):
    """All images below one or several folders, sorted by path.

    Attributes:
        path: a folder or a list of folders, absolute or relative to the datamodule's root.
        limit: only the first so many images.
        skip: leave out the first so many images.
        min_side: only images whose shorter side has at least so many pixels.
        names: only these images, in this order: names (folder and suffix may be omitted), a text
            file with one name per line, or a list that ships (see `datamodules.annotations`).
        captions: a COCO annotation file, or a JSON object of image name -> caption or captions;
            each image must have one.
        caption_index: which of an image's captions is its own, counted from 0.
        score_caption_index: which caption the CLIP score uses, if any; PerCo scores another one
            than it is conditioned on (Sec. 4.3).
        label_maps: for mIoU, a folder of label maps named like the images, with suffix png.
        label_values: the pixel value of each class in them, see `datamodules.label_maps`.
        index: a file that lists the images and optionally their sizes, see `datamodules.index_file`
            and `experiments.index`. The folder is not searched, and images are opened only when
            read. `names`, `captions` and `label_maps` still create a list, about a kilobyte per
            image.
    """

    path: str | Sequence[str] = "."
    limit: int | None = None
    skip: int = 0
    min_side: int = 0
    names: str | Sequence[str] | None = None
    captions: str | None = None
    caption_index: int = 0
    score_caption_index: int | None = None
    label_maps: str | None = None
    label_values: Sequence[int] | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, or null, got {self.limit}")
        if self.skip < 0:
            raise ValueError(f"skip must be at least 0, got {self.skip}")
        if self.caption_index < 0 or (self.score_caption_index or 0) < 0:
            raise ValueError(
                "captions are counted from 0, got caption_index="
                f"{self.caption_index} and score_caption_index={self.score_caption_index}"
            )
        if self.score_caption_index is not None and not self.captions:
            raise ValueError("score_caption_index needs captions: pass captions=FILE")
        if self.index is not None and not isinstance(self.path, str):
            raise ValueError("an index covers one folder: pass path=DIR, or no index")

    def items(self, root: Path | None) -> Sequence[Item]:
        paths = [self.path] if isinstance(self.path, str) else list(self.path)
        folders = [below(root, path) for path in paths]
        chosen = self.names is not None or self.min_side > 0
        last = None if self.limit is None else self.skip + self.limit
        items: Sequence[Item]
        if self.index is not None:
            items = IndexedItems(folders[0], read_index(below(root, self.index)))
        else:
            items = _list_items(folders, None if chosen else last)
        if not items:
            raise ValueError(
                f"no image ({' '.join(sorted(SUFFIXES))}) below {', '.join(map(str, folders))}"
            )
        if self.names is not None:
            items = _only(items, *_read_list(root, self.names))
        if self.min_side:
            items = _of_min_side(items, self.min_side, last)
            if not items:
                raise ValueError(
                    f"no image below {', '.join(map(str, folders))} has sides of {self.min_side} "
                    "pixels or more"
                )
        if len(items) <= self.skip:
            raise ValueError(f"{len(items)} images are too few to skip the first {self.skip}")
        items = items[self.skip : last]
        if self.captions:
            indices = (self.caption_index, self.score_caption_index)
            items = _captioned(items, below(root, self.captions), *indices)
        if self.label_maps:
            items = _labelled(items, below(root, self.label_maps), self.label_values)
        return items


@dataclass(frozen=True)
class Photos(Source):
    """The colour photographs of scikit-image; no download.

    Attributes:
        split: `train`, `val` or `test`; both views of the stereo pair are in `train`. `calibration`
            is train and val with one of the two views.
    """

    split: str

    SPLITS: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": (
            "hubble_deep_field.jpg",
            "ihc.png",
            "motorcycle_left.png",
            "motorcycle_right.png",
            "retina.jpg",
        ),
        "val": ("rocket.jpg",),
        "calibration": (
            "hubble_deep_field.jpg",
            "ihc.png",
            "motorcycle_left.png",
            "retina.jpg",
            "rocket.jpg",
        ),
        "test": ("astronaut.png", "chelsea.png", "coffee.png"),
    }

    def __post_init__(self) -> None:
        if self.split not in self.SPLITS:
            raise ValueError(f"unknown split {self.split!r}, choose from {', '.join(self.SPLITS)}")

    def items(self, root: Path | None) -> list[Item]:
        folder = Path(str(files("skimage.data")))
        items = [Item(name, (folder / name,)) for name in self.SPLITS[self.split]]
        for item in items:
            if not item.paths[0].is_file():
                raise ValueError(f"scikit-image does not have the photograph {item.paths[0]}")
        return items


@dataclass(frozen=True)
class Kodak(Source):
    """The 24 Kodak PhotoCD images, from the datamodule's root or downloaded into it.

    Attributes:
        download: fetch missing images from the set's home page; every picture is checked against
            the sha256 of its pixels.
    """

    download: bool = True

    def prepare(self, root: Path | None) -> None:
        for item in self._missing(root) if self.download else []:
            try:
                kodak.download(item.paths[0])
            except (OSError, HTTPException, ValueError) as error:
                raise ValueError(f"{self._help(root)}. Downloading failed: {error}") from error

    def items(self, root: Path | None) -> list[Item]:
        if self._missing(root):
            raise ValueError(self._help(root))
        return self._all(root)

    def _all(self, root: Path | None) -> list[Item]:
        folder = root or Path.home() / ".cache" / "diffcodec" / "kodak"
        return [Item(f"{name}.png", (folder / f"{name}.png",)) for name in kodak.PIXELS_SHA256]

    def _missing(self, root: Path | None) -> list[Item]:
        return [item for item in self._all(root) if not item.paths[0].is_file()]

    def _help(self, root: Path | None) -> str:
        missing = self._missing(root)
        return (
            f"{len(missing)} of the 24 Kodak images are not in {missing[0].paths[0].parent}, first "
            f"{missing[0].name}: put kodim01.png to kodim24.png there, or pass "
            f"datamodule.root=DIR; download them from {kodak.URL}/kodim01.png and so on"
        )


@dataclass(frozen=True)
class Septuplets(Source):
    """Vimeo-90k: one item per clip of seven frames, of which training draws one.

    Attributes:
        path: the folder with `sequences/` and the list, relative to the datamodule's root.
        list_file: the clips, one line `00001/0001` each.
    """

    path: str = "."
    list_file: str = "sep_trainlist.txt"

    def items(self, root: Path | None) -> list[Item]:
        folder = below(root, self.path)
        expected = (
            f"Vimeo-90k is expected as {folder / self.list_file} and "
            f"{folder}/sequences/00001/0001/im1.png to im7.png"
        )
        try:
            clips = read_names(folder / self.list_file)
        except ValueError as error:
            raise ValueError(f"{expected}: {error}") from error
        items = [
            Item(clip, tuple(folder / "sequences" / clip / f"im{i}.png" for i in range(1, 8)))
            for clip in clips
        ]
        # Only the first clip: half a million files are too many to check at every start.
        for path in items[0].paths:
            if not path.is_file():
                raise ValueError(f"{expected}: {path} does not exist")
        return items


def below(root: Path | None, path: str) -> Path:
    """An absolute path unchanged, or a path below the datamodule's root."""
    expanded = Path(path).expanduser()
    if root is None and not expanded.is_absolute():
        raise ValueError("this data set is read from disk: pass datamodule.root=DIR")
    return expanded if root is None else root / expanded


def _list_items(folders: Sequence[Path], limit: int | None) -> list[Item]:
    items: list[Item] = []
    for folder, prefix in zip(folders, _prefixes(folders), strict=True):
        items += [
            Item(prefix + file.relative_to(folder).as_posix(), (file,))
            for file in list_images(folder, limit)
        ]
    return items


def _prefixes(folders: Sequence[Path]) -> list[str]:
    """Prefixes that tell the images of several folders apart: as few last parts as possible."""
    if len(folders) == 1:
        return [""]
    absolute = [folder.resolve() for folder in folders]
    for folder, other in permutations(absolute, 2):
        if folder.is_relative_to(other):
            raise ValueError(f"images would be read twice: {folder} is below {other}")
    parts = [folder.parts[1:] for folder in absolute]
    count = 1
    while len({part[-count:] for part in parts}) < len(parts):
        count += 1
    return ["/".join(part[-count:]) + "/" for part in parts]


def _of_min_side(items: Sequence[Item], pixels: int, limit: int | None) -> Sequence[Item]:
    if isinstance(items, IndexedItems) and items[0].size is not None:
        return IndexedItems(items.folder, items.listed.of_min_side(pixels))
    # One by one: with a limit, only so many headers are read.
    return list(islice((item for item in items if _reaches(item, pixels)), limit))


def _reaches(item: Item, min_side: int) -> bool:
    try:
        return min(item.size or image_size(item.paths[0])) >= min_side
    except ImageReadError:
        return True  # kept: the reader decides whether to stop or to skip it


def _read_list(root: Path | None, names: str | Sequence[str]) -> tuple[Sequence[str], str]:
    """The listed names and where they come from, for messages."""
    if not isinstance(names, str):
        return names, "the list of names"
    shipped = shipped_names(names)
    if shipped is not None:
        return shipped, names
    file = below(root, names)
    return read_names(file), str(file)


def _only(items: Sequence[Item], names: Sequence[str], origin: str) -> list[Item]:
    by_name = {item.name: item for item in items}
    available = Names(by_name)
    found = [available.find(name) for name in names]
    missing = [name for name, match in zip(names, found, strict=True) if match is None]
    if missing:
        raise ValueError(f"{len(missing)} images of {origin} are missing, first {missing[0]!r}")
    chosen = [by_name[match] for match in found if match is not None]
    if len(set(found)) < len(found):
        raise ValueError(f"{origin} names one image twice, in two spellings")
    return chosen


def _captioned(
    items: Sequence[Item], file: Path, index: int, score_index: int | None
) -> list[Item]:
    captions = read_all_captions(file)
    available = Names(captions)
    found = [available.find(item.name) for item in items]
    _refuse_missing(items, found, f"have no caption in {file}")
    wanted = max(index, score_index or 0)
    few = [name for name in found if name is not None and len(captions[name]) <= wanted]
    if few:
        raise ValueError(
            f"{len(few)} of {len(items)} images have no caption number {wanted} (from 0) in "
            f"{file}, first {few[0]!r}"
        )
    return [
        replace(
            item,
            caption=captions[match][index],
            score_caption=None if score_index is None else captions[match][score_index],
        )
        for item, match in zip(items, found, strict=True)
        if match is not None
    ]


def _labelled(items: Sequence[Item], folder: Path, values: Sequence[int] | None) -> list[Item]:
    paths = {path.relative_to(folder).as_posix(): path for path in list_images(folder)}
    available = Names(paths)
    found = [available.find(item.name) for item in items]
    _refuse_missing(items, found, f"have no label map below {folder}")
    return [
        replace(item, label_map=LabelMap(paths[match], values))
        for item, match in zip(items, found, strict=True)
        if match is not None
    ]


def _refuse_missing(items: Sequence[Item], found: Iterable[str | None], problem: str) -> None:
    missing = [item.name for item, match in zip(items, found, strict=True) if match is None]
    if missing:
        raise ValueError(f"{len(missing)} of {len(items)} images {problem}, first {missing[0]!r}")
