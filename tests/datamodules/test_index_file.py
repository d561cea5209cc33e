import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.index_file import read_index, write_index

PARTS = st.text(
    st.characters(exclude_characters="/\t\r\n\x00", exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
SIDES = st.integers(1, 999_999)
IMAGES = st.dictionaries(PATHS, st.none() | st.tuples(SIDES, SIDES), min_size=1, max_size=20)


@given(images=IMAGES, suffix=st.sampled_from(["txt", "txt.gz", "txt.bz2", "txt.xz"]))
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read(images, suffix, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / f"index.{suffix}"
    assert write_index(path, images.items()) == len(images)
    index = read_index(path)
    assert list(index) == list(images.items())
    assert list(index[1::2]) == list(images.items())[1::2]
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "is empty"),
        (b"a.jpg\n\nb.jpg\n", "line 2, b'', is not the path"),
        (b"a.jpg\n/etc/passwd\n", "line 2, b'/etc/passwd', is not the path"),
        (b"../a.jpg\n", "is not the path of an image in the folder"),
        (b"a/./b.jpg\n", "is not the path"),
        (b"a/..\t1\t2\n", "is not the path"),
        (b"a.jpg\t3\n", "is not the path"),
        (b"a.jpg\t0\t3\n", "is not the path"),
        (b"a.jpg\t3\t4\t5\n", "is not the path"),
        (b"a\x00.jpg\n", "is not the path"),
        (b"a.jpg\nb\xff.jpg\n", "can't decode byte 0xff"),
        (b"a.jpg\nb.jpg\na.jpg\t3\t4\n", "names 'a.jpg' twice"),
        (b"a" * 10_000, "more than 4096 bytes"),
        (b"BZh9" + b"a" * 100, "cannot read the index"),
        (b"\x1f\x8b\x08\x00", "cannot read the index"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path, lines, message):
    path = tmp_path / "index.txt"
    path.write_bytes(lines)
    with pytest.raises(ValueError, match=message):
        read_index(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the index .*nothing\.txt"):
        read_index(tmp_path / "nothing.txt")


def test_it_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "index.xz"
    write_index(path, ((f"{i}.jpg", None) for i in range(100)))
    monkeypatch.setattr("datamodules.index_file.MAX_LINES", 99)
    with pytest.raises(ValueError, match="more than 512 MiB or 99 lines"):
        read_index(path)


def test_lines_of_other_systems_and_without_an_end_are_read(tmp_path):
    (tmp_path / "index.txt").write_bytes(b"a.jpg\r\nb.jpg\t4\t5\r\nc.jpg")
    index = read_index(tmp_path / "index.txt")
    assert list(index) == [("a.jpg", None), ("b.jpg", (4, 5)), ("c.jpg", None)]


def test_images_are_chosen_by_their_size(tmp_path):
    path = tmp_path / "index.txt"
    write_index(path, [("a.jpg", (4, 9)), ("b.jpg", (6, 5)), ("c.jpg", (5, 5))])
    assert [name for name, _ in read_index(path).of_min_side(5)] == ["b.jpg", "c.jpg"]
    assert [name for name, _ in read_index(path)[1:].of_min_side(6)] == []
    write_index(path, [("a.jpg", (4, 9)), ("b.jpg", None)])
    with pytest.raises(ValueError, match=r"no size of 'b\.jpg', which min_side needs"):
        read_index(path).of_min_side(5)


@pytest.mark.parametrize("name", ["a\nb.jpg", "/a.jpg", "\udcff.jpg", "", "x/" * 3000 + "a"])
def test_a_path_that_cannot_be_told_is_not_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"."):
        write_index(tmp_path / "index.txt", [("b.jpg", None), (name, None)])
    assert not list(tmp_path.iterdir())
