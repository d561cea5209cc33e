import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.files import ImageReadError, image_size, list_images, read_rgb

ROWS = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)


def pixels(path: Path) -> np.ndarray:
    image = read_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def write_png16(path: Path, values: np.ndarray, transparent: int | None = None) -> None:
    """A 16-bit PNG, grey (H, W) or colour (H, W, 3), which Pillow and NumPy alone cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    write_png(path, rows, values.shape, 16, transparent)


def write_png(
    path: Path, rows: bytes, shape: tuple[int, ...], bits: int, transparent: int | None = None
) -> None:
    """A PNG of rows that begin with their filter, grey (H, W) or colour (H, W, 3)."""
    height, width, *colours = shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 2 if colours else 0, 0, 0, 0)
    value = b"" if transparent is None else struct.pack(">H", transparent) * (3 if colours else 1)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", value) if value else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_rgb_is_read_exactly(tmp_path):
    Image.fromarray(ROWS).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), ROWS)


def test_grey_becomes_three_equal_channels(tmp_path):
    Image.fromarray(ROWS[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), np.repeat(ROWS[..., :1], 3, axis=2))


def test_one_bit_images_become_black_and_white(tmp_path):
    Image.fromarray(ROWS[..., 0] > 50).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png")[..., 1], np.where(ROWS[..., 0] > 50, 255, 0))


def test_palette_colours_are_looked_up(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [
        [[10, 20, 30], [200, 100, 50]],
        [[200, 100, 50], [10, 20, 30]],
    ]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_palette_colours_become_white(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=transparency)
    assert pixels(tmp_path / "a.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_alpha_is_laid_over_white(tmp_path):
    rgba = np.array([[[100, 0, 50, 255], [100, 0, 50, 0], [100, 0, 50, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    # 51 / 255 = 0.2 of the colour and 0.8 of white
    assert pixels(tmp_path / "a.png").tolist() == [[[100, 0, 50], [255, 255, 255], [224, 204, 214]]]


def test_grey_with_alpha_is_laid_over_white(tmp_path):
    Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), "LA").save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[40] * 3, [255] * 3]]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() <= 4


def test_16_bit_grey_is_scaled_and_rounded(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    write_png16(tmp_path / "a.png", values)
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_dark_16_bit_grey_stays_dark(tmp_path):
    # All values fit 8 bits, yet they are 16-bit values: what an image holds must not change this.
    (tmp_path / "a.pgm").write_bytes(b"P5\n2 1\n65535\n" + np.array([100, 200], ">u2").tobytes())
    assert pixels(tmp_path / "a.pgm").max() <= 1


def test_16_bit_colour_keeps_its_high_byte(tmp_path):
    write_png16(tmp_path / "a.png", ROWS.astype(np.uint16) * 257)
    assert np.array_equal(pixels(tmp_path / "a.png"), ROWS)


def test_floats_in_0_1_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "a.tiff")
    assert pixels(tmp_path / "a.tiff")[0, :, 2].tolist() == [0, 128, 255]


def write_tiff(path: Path, values: list, kind: str, *, white_is_zero: bool = False) -> None:
    """A grey TIFF of one row, of samples of any NumPy type."""
    row = np.array(values).astype(kind)
    code = {"u": 1, "i": 2, "f": 3}[row.dtype.kind]
    tags = [
        *((256, len(values)), (257, 1), (258, 8 * row.itemsize), (259, 1)),
        *((262, 0 if white_is_zero else 1), (273, 8), (277, 1), (278, 1)),
        *((279, row.nbytes), (339, code)),
    ]
    padded = row.tobytes() + b"\0" * (row.nbytes % 2)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(padded))
    path.write_bytes(head + padded + struct.pack("<H", len(tags)) + entries + b"\0" * 4)


def test_12_bits_are_scaled(tmp_path):
    # Two samples in three bytes, the high bits first.
    first, second = 0, 4095
    third, fourth = 819, 2457
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for a, b in ((first, second), (third, fourth))
    )
    tags = [
        *((256, 4), (257, 1), (258, 12), (259, 1), (262, 1)),
        *((273, 8), (277, 1), (278, 1), (279, len(packed)), (339, 1)),
    ]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(packed))
    path = tmp_path / "a.tif"
    path.write_bytes(head + packed + struct.pack("<H", len(tags)) + entries + b"\0" * 4)
    assert pixels(path)[0, :, 0].tolist() == [0, 255, 51, 153]


def test_the_transparent_value_of_16_bit_grey_becomes_white(tmp_path):
    write_png16(tmp_path / "a.png", np.array([[0, 1000, 30000]], np.uint16), transparent=1000)
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255, 117]


@pytest.mark.parametrize(("bits", "row"), [(1, 0x70), (2, 0x1B), (4, None)])
def test_the_transparent_value_of_few_bits_becomes_white(tmp_path, bits, row):
    # Values 0, 1, 2, 3 (of 1 bit: 0, 1, 1, 1), of which 1 is transparent.
    data = b"\0" + (b"\x01\x23" if row is None else bytes([row]))
    write_png(tmp_path / "a.png", data, (1, 4), bits, transparent=1)
    top = 2**bits - 1
    expected = [255 if v == 1 else v * 255 // top for v in (min(i, top) for i in range(4))]
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == expected


def test_16_bit_colour_with_a_transparent_value_is_refused(tmp_path):
    write_png16(tmp_path / "a.png", ROWS.astype(np.uint16) * 257, transparent=1000)
    with pytest.raises(ImageReadError, match=r"a\.png: 16-bit colour with a transparent value"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("kind", "values"),
    [("u1", [0, 51, 255]), ("u2", [0, 13107, 65535]), ("f4", [0, 0.2, 1])],
)
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiffs_in_which_0_is_white_are_inverted(tmp_path, kind, values, white_is_zero):
    write_tiff(tmp_path / "a.tif", values, kind, white_is_zero=white_is_zero)
    expected = [255, 204, 0] if white_is_zero else [0, 51, 255]
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4"])
def test_integers_without_a_defined_white_are_refused(tmp_path, kind):
    write_tiff(tmp_path / "a.tif", [0, 100, 127], kind)
    with pytest.raises(ImageReadError, match=r"a\.tif: .*no defined white, got \[0, 127\]"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("value", [-0.1, 1.5, 200.0, float("nan"), float("inf")])
def test_floats_of_unknown_scale_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageReadError, match=r"a\.tiff: grey values must be in \[0, 1\]"):
        read_rgb(tmp_path / "a.tiff")


def test_32_bit_integers_over_16_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageReadError, match=r"got \[0, 70000\]"):
        read_rgb(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 9])
def test_exif_rotation_is_applied_and_in_the_size(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ROWS).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    upright = np.rot90(ROWS, {3: 2, 6: 3, 8: 1}.get(orientation, 0))
    assert np.array_equal(pixels(path), upright)
    assert image_size(path) == upright.shape[:2]


def test_16_bit_grey_is_rotated_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert pixels(tmp_path / "a.png")[..., 0].tolist() == [[0], [255]]


def test_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(pixels(tmp_path / "a.gif"), np.full((4, 5, 3), [255, 0, 0]))
    assert image_size(tmp_path / "a.gif") == (4, 5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 1), (1, 300)])
def test_images_of_one_pixel_height_or_width(tmp_path, save_image, height, width):
    path = save_image("a.png", height, width, value=7)
    assert np.array_equal(pixels(path), np.full((height, width, 3), 7))
    assert image_size(path) == (height, width)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp"])
def test_truncated_file_names_itself(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageReadError, match=rf"cut\.{suffix}"):
        read_rgb(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("read", [read_rgb, image_size])
def test_what_is_no_image_names_itself(tmp_path, content, read):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"fake\.png"):
        read(path)


@pytest.mark.parametrize("read", [read_rgb, image_size])
def test_missing_file_names_itself(tmp_path, read):
    with pytest.raises(ImageReadError, match=r"gone\.png"):
        read(tmp_path / "gone.png")


@pytest.mark.parametrize("side", [10_000, 40_000])  # where Pillow warns, and where it raises
@pytest.mark.parametrize("read", [read_rgb, image_size])
def test_decompression_bomb_is_refused_unopened(tmp_path, side, read):
    path = tmp_path / "bomb.png"
    write_png16(path, np.zeros((1, 1), np.uint16))
    header = struct.pack(">II", side, side)
    data = bytearray(path.read_bytes())
    data[16:24] = header
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=r"bomb\.png: Image size .* exceeds limit"):
        read(path)


def test_broken_bytes_end_in_the_one_error(tmp_path):
    # Pillow answers broken files with half a dozen kinds of errors.
    rng = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    failures = 0
    for suffix in ("png", "webp", "bmp", "jpg"):
        path = tmp_path / f"a.{suffix}"
        image.save(path, exif=exif)
        intact = path.read_bytes()
        for _ in range(150):
            data = bytearray(intact)
            for _ in range(3):
                data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
            path.write_bytes(data)
            for read in (read_rgb, image_size):
                try:
                    read(path)
                except ImageReadError:
                    failures += 1
    assert failures > 100


def test_reading_warns_of_nothing(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_rgb(tmp_path / "a.png")


def test_images_are_listed_recursively_in_the_order_of_their_paths(tmp_path, save_image):
    for name in ("b.png", "a/2.PNG", "a/1.jpeg", "a-b.webp", "c/d/e.JPG"):
        save_image(name)
    (tmp_path / "list.txt").write_text("no image")
    (tmp_path / "a" / "README").write_text("no image")
    assert list_images(tmp_path) == sorted(list_images(tmp_path))
    listed = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert listed == ["a/1.jpeg", "a/2.PNG", "a-b.webp", "b.png", "c/d/e.JPG"]


def test_a_limit_lists_the_first(tmp_path, save_image):
    for name in ("b.png", "a/2.png", "a/1.png"):
        save_image(name)
    assert list_images(tmp_path, 2) == [tmp_path / "a" / "1.png", tmp_path / "a" / "2.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path, save_image):
    for name in ("a.png", ".hidden.png", ".cache/b.png", "c/._d.jpg"):
        save_image(name)
    assert list_images(tmp_path) == [tmp_path / "a.png"]


def test_a_hidden_folder_above_does_not_hide_the_images(tmp_path, save_image):
    image = save_image(".data/a.png")
    assert list_images(tmp_path / ".data") == [image]


def test_a_folder_with_an_image_suffix_is_no_image(tmp_path, save_image):
    inside = save_image("set.png/a.png")
    assert list_images(tmp_path) == [inside]


def test_links_to_folders_are_followed(tmp_path, save_image):
    save_image("elsewhere/a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part").symlink_to(tmp_path / "elsewhere")
    assert list_images(tmp_path / "set") == [tmp_path / "set" / "part" / "a.png"]


@pytest.mark.parametrize("through_link", [False, True])
def test_links_that_lead_back_are_refused(tmp_path, save_image, through_link):
    save_image("set/sub/a.png")
    (tmp_path / "set" / "sub" / "loop").symlink_to(tmp_path / "set" / "sub")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    with pytest.raises(ValueError, match="links back"):
        list_images(tmp_path / ("link" if through_link else "set"))


def test_a_broken_link_is_listed_so_that_reading_it_names_it(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert list_images(tmp_path) == [tmp_path / "a.png"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no such folder: {tmp_path}/gone"):
        list_images(tmp_path / "gone")


def test_names_that_are_no_utf_8_are_refused_when_they_are_listed(tmp_path, save_image):
    save_image("a.png").rename(tmp_path / os.fsdecode(b"a\xff.png"))
    with pytest.raises(ValueError, match=r"a\\xff\.png' is not UTF-8: rename it"):
        list_images(tmp_path)
