import pytest
from PIL import Image

from datamodules.image_sets import Folder, Item
from datamodules.index_file import read_index
from experiments.index import main


@pytest.fixture
def folder(tmp_path):
    for name, size in (("b/1.png", (5, 4)), ("a.jpg", (8, 9)), ("b/2.png", (2, 7))):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    (tmp_path / "train" / "c.png").write_bytes(b"no image")
    return tmp_path / "train"


def test_a_folder_is_listed_as_a_run_would_list_it(folder, tmp_path, capsys):
    main([str(tmp_path / "index" / "train.txt.gz"), str(folder)])
    assert capsys.readouterr().out == f"{tmp_path}/index/train.txt.gz: 4 images\n"
    items = Folder("train", index="index/train.txt.gz").items(tmp_path)
    assert list(items) == Folder("train").items(tmp_path)
    assert list(Folder("train", index="index/train.txt.gz", skip=1, limit=2).items(tmp_path)) == (
        Folder("train", skip=1, limit=2).items(tmp_path)
    )


def test_sizes_spare_looking_into_the_files(folder, tmp_path, caplog):
    main([str(tmp_path / "train.txt"), str(folder), "--sizes"])
    assert "c.png" in caplog.text
    assert list(read_index(tmp_path / "train.txt")) == [
        *(("a.jpg", (9, 8)), ("b/1.png", (4, 5)), ("b/2.png", (7, 2))),
    ]
    for path in folder.rglob("*.*"):
        path.unlink()
    items = Folder("train", index="train.txt", min_side=4).items(tmp_path)
    assert list(items) == [
        Item("a.jpg", (folder / "a.jpg",), size=(9, 8)),
        Item("b/1.png", (folder / "b/1.png",), size=(4, 5)),
    ]


def test_where_there_is_no_image_nothing_is_left(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "no image below"), ("nowhere", "no such folder")):
        with pytest.raises(SystemExit, match=message):
            main([str(tmp_path / "index.txt"), str(tmp_path / folder)])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_index_is_of_one_folder():
    with pytest.raises(ValueError, match="an index covers one folder"):
        Folder(["a", "b"], index="index.txt")


def test_an_index_replaces_no_image(folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    for file, message in ((folder / "a.jpg", "has the name of an image"), (folder, "is a folder")):
        with pytest.raises(SystemExit, match=message):
            main([str(file), str(folder)])
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
