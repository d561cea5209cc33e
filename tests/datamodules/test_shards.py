import io
import tarfile

import fsspec
import pytest
import webdataset

from datamodules.shards import (
    BrokenShardError,
    ShardImage,
    Shards,
    UnreachableShardError,
    read_shard,
)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


MEMBERS = [
    *(("set/0.jpg", b"zero"), ("set/0.txt", " Grün \n".encode())),
    *(("set/1.json", b"{}"), ("set/1.PNG", b"one"), ("set/1.seg.png", b"labels")),
    *(("set/2.txt", b"no image"), ("3.webp", b"three"), ("3.txt", b"")),
]
IMAGES = [
    ShardImage("a.tar/set/0.jpg", b"zero", "Grün"),
    ShardImage("a.tar/set/1.png", b"one", None),
    ShardImage("a.tar/3.webp", b"three", None),
]


def test_images_and_captions_are_read_in_order(tmp_path):
    assert list(read_shard(write_tar(tmp_path / "a.tar", MEMBERS))) == IMAGES


def test_what_webdataset_writes_is_read(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for key in ("000", "001"):
            writer.write({"__key__": key, "jpg": key.encode(), "txt": f"caption {key}"})
    assert list(read_shard(str(tmp_path / "w.tar"))) == [
        ShardImage(f"w.tar/{key}.jpg", key.encode(), f"caption {key}") for key in ("000", "001")
    ]


def test_shards_elsewhere_are_read(tmp_path):
    write_tar(tmp_path / "a.tar", MEMBERS)
    with fsspec.open("memory://a.tar", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes())
    assert list(read_shard("memory://a.tar")) == IMAGES


@pytest.mark.parametrize("cut", [1, 511, 700, 1024 + 600, 3 * 1024 + 7])
def test_a_shard_that_is_cut_off_is_broken_after_what_it_has(tmp_path, cut):
    path = tmp_path / "a.tar"
    write_tar(path, MEMBERS)
    path.write_bytes(path.read_bytes()[:cut])
    images = []
    with pytest.raises(BrokenShardError, match=r"cannot read the shard .*a\.tar"):
        images.extend(read_shard(str(path)))
    assert images == IMAGES[: len(images)]


def test_a_header_in_the_middle_that_is_none_is_no_end(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, MEMBERS)
    data = bytearray(path.read_bytes())
    data[4 * 512 : 4 * 512 + 300] = b"\x01" * 300
    path.write_bytes(data)
    with pytest.raises(BrokenShardError):
        list(read_shard(str(path)))


def test_links_and_large_members_are_left_out(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, size in (("1.jpg", 11), ("2.jpg", 10)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"x" * size))
    monkeypatch.setattr("datamodules.shards.MAX_IMAGE_BYTES", 10)
    assert [image.name for image in read_shard(str(path))] == ["a.tar/2.jpg"]


def test_one_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreachableShardError, match=r"cannot open .*nothing\.tar"):
        list(read_shard(str(tmp_path / "nothing.tar")))


def names(root, path):
    return [location.rpartition("/")[2] for location in Shards(path).locations(root)]


def test_shards_are_found(tmp_path):
    for name in ("b-07.tar", "b-08.tar", "c-07.tar", "d.txt"):
        (tmp_path / name).touch()
    assert names(tmp_path, ".") == ["b-07.tar", "b-08.tar", "c-07.tar"]
    assert names(tmp_path, "b-*.tar") == ["b-07.tar", "b-08.tar"]
    assert names(tmp_path, "b-{07..08}.tar") == ["b-07.tar", "b-08.tar"]
    assert names(tmp_path, ["c-07.tar", "b-{7..8}.tar".replace("{", "0{")]) == [
        *("c-07.tar", "b-07.tar", "b-08.tar")
    ]
    url = "https://example.org/{0..1}/{08..10}.tar"
    assert Shards(url).locations(None) == [
        f"https://example.org/{a}/{b}.tar" for a in (0, 1) for b in ("08", "09", "10")
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.tar", "no shard "),
        ("x-*.tar", "no shard "),
        (["a.tar", "a.tar"], "named twice"),
        ("{9..1}.tar", "matches no shard"),
        ("https://a/{0..999999}/{0..999999}.tar", "more than 1048576"),
        ("https://a/{0..99999999999999999999}.tar", "more than 1048576"),
        ("pipe:rm -rf x", "no shard "),
        ("ssh://host/a.tar", "cannot be read by ssh://, choose from http, https, hf, s3, gs"),
        ("simplecache::https://a/b.tar", "cannot be read by simplecache::https://"),
    ],
)
def test_what_is_no_shard_is_refused(tmp_path, path, message):
    (tmp_path / "a.tar").touch()
    with pytest.raises(ValueError, match=message):
        Shards(path).locations(tmp_path)


def test_a_buffer_of_one_would_not_shuffle():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        Shards(buffer=1)
