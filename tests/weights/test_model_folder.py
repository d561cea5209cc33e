import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

import diffcodec
from diffcodec.base.classical import PillowCodec
from diffcodec.base.vbr import VariableRateCodec
from diffcodec.perco import PerCo
from diffcodec.sdedit import SDEdit
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.small_prior import SmallPrior
from diffcodec.sdedit.small_unet import SmallUNet
from diffcodec.weights.model_folder import load_model, saved_state
from tests.latent.tiny import save_pipeline, tiny_backbone
from tests.perco.tiny import SIZES, arguments

README = Path(__file__).parents[2] / "README.md"


def tiny_hyperprior(**options) -> VariableRateCodec:
    torch.manual_seed(0)
    return VariableRateCodec(4, 6, lambdas=[0.01, 0.02], **options).eval()


def tiny_perco(backbone, **options) -> PerCo:
    options = {**SIZES, "steps": 2, **options}
    return PerCo(backbone, ["8x8/16", "16x16/16"], **arguments(**options)).eval()


def test_the_lines_of_the_readme(photo):
    lines = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    names = {"x": photo[..., :64, :96]}
    exec(lines[1], names)
    assert "diffcodec.load" in lines[1]
    assert names["x_hat"].shape == (1, 3, 64, 96)


def test_importing_the_library_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, diffcodec; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_saved_codec_is_the_same_codec(photo, tmp_path):
    codec = tiny_hyperprior(level=[1])
    folder = codec.save(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = diffcodec.load(str(folder))
    assert not again.training
    assert again.fingerprint() == codec.fingerprint()
    streams = codec.compress(photo[..., :64, :64])
    assert torch.equal(again.decompress(streams), codec.decompress(streams))
    both = diffcodec.load(str(folder), level=[0, 1])
    assert [p.name for p in both.points] == ["level=0", "level=1"]


def test_gains_follow_from_the_lambdas_alone(tmp_path):
    codec = tiny_hyperprior()
    folder = codec.save(tmp_path)
    assert "model.Gain" not in load_file(folder / "model.safetensors")
    other = VariableRateCodec(lambdas=[0.04, 0.08], weights=str(folder))
    assert torch.allclose(other.model.Gain, 2 * codec.model.Gain)
    # A checkpoint that has gains says which lambdas they are of.
    torch.save(codec.state_dict(), tmp_path / "all.ckpt")
    with pytest.raises(ValueError, match=r"trained for lambdas \[0\.01, 0\.02\], not for"):
        VariableRateCodec(4, 6, lambdas=[0.02, 0.04], weights=str(tmp_path / "all.ckpt"))


def test_half_precision_is_half_the_file(tmp_path):
    codec = tiny_hyperprior()
    whole = (codec.save(tmp_path / "a") / "model.safetensors").stat().st_size
    half = (codec.save(tmp_path / "b", dtype=torch.float16) / "model.safetensors").stat().st_size
    assert half < 0.7 * whole


def test_parts_that_only_this_machine_has_are_written_whole(tmp_path):
    base = VariableRateCodec(weights=str(tiny_hyperprior().save(tmp_path / "base")))
    network = SmallUNet([4], 1)
    prior = SmallPrior(network, SmallUNet(weights="small_consistency"))
    codec = SDEdit(base, prior, {"fast": Preset("consistency")}, strength=0.1).eval()
    folder = codec.save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["base"]["weights"] is None
    assert config["prior"]["consistency"]["weights"].startswith("small_consistency#sha256=")
    written = load_file(folder / "model.safetensors")
    assert {key.split(".")[0] for key in written} == {"base", "prior"}
    assert not any(key.startswith("prior.consistency_network.") for key in written)
    again = diffcodec.load(str(folder))
    assert again.fingerprint() == codec.fingerprint()
    state = codec.state_dict()
    for name, tensor in again.state_dict().items():
        if "_quantized_cdf" not in name and "_offset" not in name and "_cdf_length" not in name:
            assert torch.equal(tensor, state[name]), name


def test_a_codec_without_weights_of_its_own_is_a_config(tmp_path):
    codec = PillowCodec("JPEG", quality=[10, 50])
    folder = codec.save(tmp_path)
    assert not (folder / "model.safetensors").exists()
    assert [p.name for p in diffcodec.load(str(folder)).points] == ["quality=10", "quality=50"]


def test_frozen_parts_of_the_hub_are_named_and_not_written(tmp_path):
    from diffcodec.perco.released import stable_diffusion

    source = str(save_pipeline(tmp_path / "sd"))
    codec = tiny_perco(stable_diffusion(source), finetune="linear")
    state = saved_state(codec)
    assert not any(".latents." in k or ".text_encoder." in k for k in state)
    unet = {k for k in state if ".unet." in k}
    trained = {f"model.{k}" for k, p in codec.model.named_parameters() if p.requires_grad}
    assert unet == {k for k in trained if ".unet." in k}
    again = diffcodec.load(str(codec.save(tmp_path / "model")))
    assert again.fingerprint() == codec.fingerprint()
    with pytest.raises(
        ValueError, match=r"depends on files of this machine: .*codec\.backbone\.source="
    ):
        codec.push_to_hub("me/perco")


def test_low_rank_changes_are_all_that_is_written_of_a_hub_unet(tmp_path):
    from diffcodec.perco.released import stable_diffusion

    codec = tiny_perco(stable_diffusion(str(save_pipeline(tmp_path / "sd"))), finetune="lora")
    unet = [k for k in saved_state(codec) if ".unet." in k and "conv_in" not in k]
    assert unet
    assert all(k.endswith((".A", ".B")) for k in unet)
    folder = codec.save(tmp_path / "model")
    assert diffcodec.load(str(folder)).fingerprint() == codec.fingerprint()


def test_an_own_backbone_is_written_whole(tmp_path):
    codec = tiny_perco(tiny_backbone())
    folder = codec.save(tmp_path)
    again = diffcodec.load(str(folder))
    assert again.fingerprint() == codec.fingerprint()
    assert diffcodec.load(str(folder), rate=["8x8/16"]).rates == codec.rates[:1]


def test_push_to_hub_uploads_the_folder(monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repository, *, private, exist_ok):
            calls.append((repository, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}
            calls.append((repo_id, sorted(files), commit_message))
            assert b'diffcodec.load("hf://me/codec")' in files["README.md"]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert tiny_hyperprior().push_to_hub("me/codec", private=True) == "hf://me/codec"
    assert calls == [
        ("me/codec", True, True),
        ("me/codec", ["README.md", "config.json", "model.safetensors"], "Upload the codec"),
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("small_denoiser", "is not a codec but a part of one, a SmallUNet"),
        ("nothing", "no model at 'nothing'.*shipped models: cdc"),
    ],
)
def test_what_is_no_codec_says_what_is(source, message):
    with pytest.raises(ValueError, match=message):
        diffcodec.load(source)


def test_unknown_overrides_list_the_arguments():
    with pytest.raises(ValueError, match=r"has no argument step, choose from .*steps"):
        diffcodec.load("cdc_residual", step=3)


def test_another_version_of_what_ships_is_refused(tmp_path):
    base = VariableRateCodec(weights="mbt2018_mean_vbr", level=[3])
    prior = SmallPrior(SmallUNet(weights="small_denoiser"), SmallUNet(weights="small_consistency"))
    folder = SDEdit(base, prior, {"medium": Preset(steps=2)}, strength=0.1).save(tmp_path)
    path = folder / "config.json"
    path.write_text(re.sub(r"(vbr#sha256=).{4}", r"\g<1>0000", path.read_text()))
    with pytest.raises(ValueError, match="checksum mismatch"):
        load_model(str(folder))
