import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.build import build_codec
from experiments.cli import CONFIG_DIR, check_overrides, compose_config
from tests.warm import run_module

ROOT = Path(__file__).parents[2]


def run(*arguments: str, module: str = "experiments.run") -> subprocess.CompletedProcess[str]:
    return run_module(module, *arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("codec=mbt2019", "mbt2018_mean_vbr"),
        ("datamodule=kodack", "kodak"),
        ("codec.levl=[1]", "no key 'levl' in 'codec'. Did you mean 'level'?"),
        ("trainer.max_step=3", "Did you mean 'max_steps'?"),
        ("fitt=false", "no key 'fitt' in the config. Did you mean 'fit'?"),
        ("callbacks.evaluation.protcol=whole", "Did you mean 'protocol'?"),
    ],
)
def test_a_wrong_name_lists_the_choices(override, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        compose_config([override])
    assert message in str(error.value)


def test_wrong_names_and_help_answer_at_once():
    # In seconds: nothing heavy may be imported.
    for arguments in (["codec=nothing"], ["--help"], ["codec.nothing=1"]):
        code = (
            "import sys; sys.argv = ['run', *sys.argv[1:]]\n"
            "import runpy\n"
            "try: runpy.run_module('experiments.run', run_name='__main__')\n"
            "except SystemExit as error: print(error)\n"
            "heavy = {'torch', 'lightning', 'compressai', 'wandb'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "nothing" in done.stderr + done.stdout or "codec: " in done.stdout


def test_a_bad_value_is_one_line_without_a_traceback(tmp_path):
    done = run("codec=jpeg", "codec.quality=[200]", f"hydra.run.dir={tmp_path}", "logger=none")
    assert done.returncode != 0
    assert "error: JPEG quality [200] is outside 1 to 95" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_of_a_part_has_no_codec_to_code_with():
    with pytest.raises(ValueError, match="trains a part and has no codec"):
        build_codec(compose_config(["experiment=sdedit/prior"]))


def test_the_number_of_threads_is_checked_before_anything_is_built():
    with pytest.raises(ValueError, match="threads=0: must be at least 1"):
        build_codec(compose_config(["threads=0", "codec=jpeg"]))


@pytest.mark.parametrize("path", sorted(Path(CONFIG_DIR).glob("experiment/**/*.yaml")), ids=str)
def test_every_experiment_composes(path):
    name = path.relative_to(Path(CONFIG_DIR) / "experiment").with_suffix("")
    cfg = compose_config([f"experiment={name}"])
    assert "_target_" in (cfg.codec if "codec" in cfg else cfg.part)


@pytest.mark.parametrize("group", ["trainer", "logger", "codec", "part"])
def test_every_choice_of_a_group_composes(group):
    for path in sorted((Path(CONFIG_DIR) / group).glob("*.yaml")):
        assert "_target_" in compose_config([f"{group}={path.stem}"])[group]


def test_compress_and_decompress_are_inverse_in_fresh_processes(tmp_path):
    from PIL import Image
    from skimage import data

    from datamodules.files import read_rgb

    Image.fromarray(data.chelsea()[:101, :67]).save(tmp_path / "in.webp", lossless=True)
    arguments = ["codec=mbt2018_mean_vbr"]
    done = run(
        *(str(tmp_path / "in.webp"), str(tmp_path / "s.bin"), *arguments, "point=5"),
        module="experiments.compress",
    )
    assert done.returncode == 0, done.stderr
    assert "bpp at level=5" in done.stdout
    for name in ("a.png", "b.png"):
        done = run(
            *(str(tmp_path / "s.bin"), str(tmp_path / name), *arguments),
            module="experiments.decompress",
        )
        assert done.returncode == 0, done.stderr
    assert read_rgb(tmp_path / "a.png").size == (67, 101)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    (tmp_path / "s.bin").write_bytes((tmp_path / "s.bin").read_bytes()[:-1])
    done = run(
        *(str(tmp_path / "s.bin"), str(tmp_path / "c.png"), *arguments),
        module="experiments.decompress",
    )
    assert done.returncode != 0
    assert "checksum mismatch" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_is_decompressed_without_saying_how_it_was_compressed(tmp_path):
    from PIL import Image
    from skimage import data

    from datamodules.files import read_rgb

    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, image in (("a.png", data.chelsea()[:40, :50]), ("deep/b.png", data.cat()[:30, :20])):
        Image.fromarray(image).save(tmp_path / "in" / name)
    done = run(
        *(str(tmp_path / "in"), str(tmp_path / "streams"), "codec=jpeg", "codec.quality=[90]"),
        module="experiments.compress",
    )
    assert done.returncode == 0, done.stderr
    streams = {p.relative_to(tmp_path / "streams").as_posix() for p in tmp_path.rglob("*.bin")}
    assert streams == {"a.bin", "deep/b.bin"}
    assert "bpp at quality=90" in done.stdout
    done = run(str(tmp_path / "streams"), str(tmp_path / "out"), module="experiments.decompress")
    assert done.returncode == 0, done.stderr
    assert read_rgb(tmp_path / "out" / "a.png").size == (50, 40)
    assert read_rgb(tmp_path / "out" / "deep" / "b.png").size == (20, 30)
    (tmp_path / "streams" / "a.bin").write_bytes(b"no stream")
    done = run(str(tmp_path / "streams"), str(tmp_path / "out"), module="experiments.decompress")
    assert done.returncode != 0
    assert "a.bin: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_said_before_anything_is_loaded(tmp_path):
    done = run(str(tmp_path / "no.png"), "out.bin", "codec=jpeg", module="experiments.compress")
    assert "no such file" in done.stderr
    done = run("only.png", module="experiments.compress")
    assert "INPUT OUTPUT" in done.stderr


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", ".."])
def test_the_name_of_a_run_is_no_path(name):
    with pytest.raises(SystemExit, match="a run's name is a folder name in outputs/"):
        check_overrides([f"name={name}"])


def test_arguments_that_are_no_utf_8_are_refused():
    folder = os.fsdecode(b"datamodule.root=\xff")
    for arguments in ([folder], ["-m", folder]):
        with pytest.raises(SystemExit, match=r"root=\\xff' is not UTF-8"):
            check_overrides(arguments)


def test_names_are_written_in_utf_8_in_any_locale(tmp_path):
    code = (
        "from pathlib import Path; from diffcodec.results.curves import write_rows; "
        "write_rows([{'name': chr(252)}], Path('images.csv'))"
    )
    latin = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=latin, check=True)
    assert (tmp_path / "images.csv").read_text(encoding="utf-8").splitlines() == ["name", "ü"]


@pytest.mark.parametrize(
    "overrides",
    [["codec=cdc", "codec/compressor=own"], ["codec=cdc", "codec/compressor=jpeg"]],
)
def test_cdcs_old_names_say_the_new_ones(overrides):
    with pytest.raises(ValueError, match=r"codec=cdc for CDC .*, or codec=cdc_residual"):
        compose_config(overrides)
    with pytest.raises(SystemExit):
        check_overrides(overrides)


def test_an_error_inside_a_file_of_the_config_is_reported(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("defaults:\n  - override /codec: jpeg\n  - _self_\n")
    monkeypatch.setattr("experiments.cli.CONFIG_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="Could not override 'codec'"):
        compose_config(["seed=1"])
