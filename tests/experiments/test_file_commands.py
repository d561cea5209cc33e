import os

import pytest
from PIL import Image

from experiments import compress, decompress
from experiments.cli import compose_config
from experiments.file_commands import Job, find_inputs, read_codec_file, write_codec_file


def files_of(folder):
    return sorted(folder.rglob("*.png"))


def test_one_file_goes_to_one_file_and_several_into_a_folder(tmp_path):
    for name in ("a.png", "b.png", "folder/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    one, two, folder = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "folder"
    out = tmp_path / "out"
    assert find_inputs([one], tmp_path / "x.bin", files_of, ".bin") == [
        Job(one, tmp_path / "x.bin")
    ]
    assert find_inputs([one, two], out, files_of, ".bin") == [
        *(Job(one, out / "a.bin", out), Job(two, out / "b.bin", out)),
    ]
    assert find_inputs([folder], out, files_of, ".bin") == [
        Job(folder / "a.png", out / "a.bin", out)
    ]
    with pytest.raises(ValueError, match="would both be written to"):
        find_inputs([one, folder], out, files_of, ".bin")
    with pytest.raises(ValueError, match="no such file"):
        find_inputs([tmp_path / "c.png"], out, files_of, ".bin")
    with pytest.raises(ValueError, match="is a file: several outputs"):
        find_inputs([one, two], one, files_of, ".bin")
    with pytest.raises(ValueError, match="no such folder"):
        find_inputs([one], tmp_path / "no" / "x.bin", files_of, ".bin")


def test_the_codec_is_remembered_with_full_paths(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    overrides = ["codec=cdc", "codec.weights=w.safetensors", "point=0"]
    path = write_codec_file(tmp_path, overrides)
    assert read_codec_file(path) == [
        *("codec=cdc", f"codec.weights={tmp_path / 'w.safetensors'}", "point=0"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot read"),
        ("[1]", "has no overrides"),
        ("overrides: {a: 1}", "has no overrides"),
        ("overrides: [codec=jpg]", "codec"),
        ("overrides: [codec=jpeg, codec._target_=os.system]", "code outside this project"),
        (
            "overrides: ['codec=jpeg', '+codec.more={_target_: subprocess.run}']",
            "code outside this project: subprocess.run",
        ),
        ("!!python/object/apply:os.system [ls]", "cannot read"),
    ],
)
def test_a_file_from_anywhere_cannot_run_code(tmp_path, text, message):
    (tmp_path / "codec.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_codec_file(tmp_path / "codec.yaml")


def test_images_that_the_format_cannot_hold_are_refused_before_any_is_compressed(tmp_path):
    for name, width in (("a.png", 8), ("b.png", 65501)):
        Image.new("RGB", (width, 1)).save(tmp_path / name)
    cfg = compose_config(["codec=jpeg"])
    jobs = compress.plan([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match=r"b\.png: JPEG .* 65500 pixels per side, got 1x65501"):
        compress.compress(jobs, cfg, [])
    assert not (tmp_path / "out").exists()


def test_files_whose_names_are_no_utf_8_are_refused(tmp_path):
    odd = tmp_path / os.fsdecode(b"a\xff.png")
    odd.touch()
    for inputs, output in (([odd], tmp_path / "a.bin"), ([tmp_path], tmp_path / "out")):
        with pytest.raises(ValueError, match="is not UTF-8"):
            compress.plan(inputs, output)


def test_nothing_is_written_over_an_input_or_a_file_of_another_kind(tmp_path):
    images, streams = tmp_path / "images", tmp_path / "streams"
    for path in (images / "a.png", images / "b.png", streams / "a.bin"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    a, b = images / "a.png", images / "b.png"
    (tmp_path / "link.bin").symlink_to(a)
    for command, inputs, output, message in (
        (compress, [b], b, "b.png is an input"),
        (compress, [a], b, "b.png exists and is not a .bin file"),
        (compress, [a], tmp_path / "link.bin", "link.bin is an input"),
        (compress, [images], images, "is the input folder"),
        (compress, [a, images], images, "is the input folder"),
        (decompress, [streams / "a.bin"], streams / "a.bin", "a.bin is an input"),
        (decompress, [streams], streams, "is the input folder"),
    ):
        with pytest.raises(ValueError, match=message):
            command.plan(inputs, output)
    assert compress.plan([images], streams)[0].target == streams / "a.bin"  # as often as wished
    assert compress.plan([a], images)[0].target == images / "a.bin"
