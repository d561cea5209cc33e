import numpy as np
from PIL import Image

from diffcodec.results.contact_sheet import CELL, GAP, contact_sheet


def test_every_picture_is_in_its_row_and_column(tmp_path):
    sizes = {"wide.png": (600, 300), "tall.png": (100, 200)}
    columns = []
    for i in range(3):
        folder = tmp_path / str(i)
        folder.mkdir()
        for j, (name, size) in enumerate(sizes.items()):
            Image.new("RGB", size, (80 * i, 100 * j, 200)).save(folder / name)
        columns.append((f"column {i}\n0.1 bpp", [folder / name for name in sizes]))
    sheet = np.asarray(contact_sheet(columns))
    assert sheet.shape[1] == 3 * (CELL + GAP) + GAP
    for i in range(3):
        centre = GAP + i * (CELL + GAP) + CELL // 2
        found = dict.fromkeys(map(tuple, sheet[60:, centre].tolist()))
        assert [*found] == [(80 * i, 0, 200), (255, 255, 255), (80 * i, 100, 200)]
        heading = sheet[:30, centre - 60 : centre + 60]
        assert (heading < 128).any()  # something is written there


def test_a_crop_shows_pixels_as_they_are(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (600, 400, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.png")
    sheet = np.asarray(contact_sheet([("", [tmp_path / "x.png"])], crop=True))
    top = sheet.shape[0] - GAP - CELL
    assert (sheet[top : top + CELL, GAP : GAP + CELL] == picture[86:342, 72:328]).all()


def test_small_pictures_are_not_blown_up(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (16, 16), (10, 20, 30)).save(tmp_path / "a" / "x.png")
    sheet = np.asarray(contact_sheet([("", [tmp_path / "a" / "x.png"])]))
    assert (sheet == (10, 20, 30)).all(axis=-1).sum() == 16 * 16
