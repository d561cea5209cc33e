import hashlib
import http.client
import io
import urllib.error
from pathlib import Path

import pytest
from PIL import Image

from datamodules import kodak
from datamodules.files import read_rgb
from datamodules.image_sets import Kodak


@pytest.fixture
def pictures(monkeypatch) -> dict[str, bytes]:
    """Two small pictures in the place of Kodak's, by the last part of their address."""
    encoded, hashes = {}, {}
    for number, colour in enumerate(("red", "blue"), start=1):
        picture = Image.new("RGB", (6, 4), colour)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        encoded[f"kodim{number:02}.png"] = buffer.getvalue()
        hashes[f"kodim{number:02}"] = hashlib.sha256(picture.tobytes()).hexdigest()
    monkeypatch.setattr(kodak, "PIXELS_SHA256", hashes)
    return encoded


@pytest.fixture
def server(monkeypatch, pictures) -> list[str]:
    """Serves `pictures`; the addresses that were asked for."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float):
        asked.append(url)
        return io.BytesIO(pictures[url.rsplit("/", 1)[1]])

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def test_kodak_is_24_images_in_their_order(tmp_path, save_image):
    for number in range(24, 0, -1):
        save_image(f"kodim{number:02}.png")
    save_image("extra.png")
    items = Kodak(download=False).items(tmp_path)
    assert [item.name for item in items] == [f"kodim{number:02}.png" for number in range(1, 25)]


def test_missing_kodak_images_say_where_to_put_them(tmp_path, save_image):
    save_image("kodim01.png")
    with pytest.raises(ValueError, match=r"23 of the 24 .* not in .*, first kodim02\.png.*root="):
        Kodak().items(tmp_path)


def test_kodak_downloads_what_is_missing(tmp_path, pictures, server):
    root = tmp_path / "new" / "kodak"
    Kodak().prepare(root)
    assert [url.removeprefix(kodak.URL) for url in server] == ["/kodim01.png", "/kodim02.png"]
    items = Kodak().items(root)
    assert [item.paths[0].read_bytes() for item in items] == list(pictures.values())
    Kodak().prepare(root)
    assert len(server) == 2


def test_kodak_without_a_root_lies_in_the_cache(tmp_path, monkeypatch, server):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    Kodak().prepare(None)
    folder = tmp_path / ".cache" / "diffcodec" / "kodak"
    assert [item.paths[0].parent for item in Kodak().items(None)] == [folder] * 2


def test_kodak_asks_nobody_where_downloading_is_off(tmp_path, server):
    Kodak(download=False).prepare(tmp_path)
    assert server == []


def test_a_wrong_kodak_picture_is_refused_and_not_kept(tmp_path, pictures, server):
    pictures["kodim01.png"] = pictures["kodim02.png"]
    with pytest.raises(ValueError, match=r"kodim01\.png is not the expected Kodak image"):
        Kodak().prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_is_no_picture_is_refused_and_not_kept(tmp_path, pictures, server):
    pictures["kodim01.png"] = b"<html>please log in</html>"
    with pytest.raises(ValueError, match="Downloading failed: cannot read image"):
        Kodak().prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError(), http.client.IncompleteRead(b"")]
)
def test_a_failed_download_says_where_to_put_the_images(tmp_path, monkeypatch, pictures, error):
    def fail(url: str, timeout: float):
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(ValueError, match=r"put kodim01\.png to kodim24\.png there.*failed"):
        Kodak().prepare(tmp_path)


def test_the_checksums_are_those_of_kodak(shared):
    for item in Kodak(download=False).items(shared / "data" / "kodak"):
        pixels = read_rgb(item.paths[0]).tobytes()
        assert hashlib.sha256(pixels).hexdigest() == kodak.PIXELS_SHA256[Path(item.name).stem]
