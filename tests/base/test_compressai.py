import argparse

import numpy as np
import pytest
import torch
from compressai.zoo.image import model_urls
from compressai.zoo.pretrained import load_pretrained
from hydra.utils import instantiate

from diffcodec.base.compressai import LAMBDAS, CompressAICodec
from diffcodec.base.vbr import VariableRateCodec
from experiments.cli import compose_config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "mbt2019"}, "choose from"),
        ({"architecture": "cheng2020-anchor", "quality": 7}, r"choose from \[1, 2, 3, 4, 5, 6\]"),
        ({"architecture": "mbt2018", "metric": "psnr"}, "choose from"),
        ({"architecture": "mbt2018", "quality": [1, 2]}, "pass one quality, or weights=zoo"),
        ({"architecture": "mbt2018", "size": [8]}, "size must be 'paper' or 2 numbers"),
        ({"architecture": "mbt2018", "size": [8, 8], "weights": "zoo"}, "size=paper"),
        ({"architecture": "mbt2018", "size": [8, 8], "weights": "no.pth"}, r"no weights at"),
    ],
)
def test_settings_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressAICodec(**arguments)


def test_size_paper_is_the_zoo_s():
    codec = CompressAICodec("bmshj2018-hyperprior", 3)
    assert sum(p.numel() for p in codec.parameters()) == 5_075_843
    assert tuple(p.name for p in codec.points) == ("quality=3",)


@pytest.mark.parametrize("architecture", ["bmshj2018-hyperprior", "mbt2018-mean"])
def test_decoding_equals_the_forward_pass(architecture, photo):
    torch.manual_seed(0)
    codec = CompressAICodec(architecture, 3, size=[16, 24]).eval()
    x = photo[..., :128, :192]
    with torch.no_grad():
        expected = codec.model(x)["x_hat"].clamp(0, 1)
    assert (codec.decompress(codec.compress(x)) - expected).abs().max() < 1e-5


def test_the_zoo_is_asked_for_each_quality_and_its_weights_are_used(monkeypatch, photo):
    # Checkpoints as the zoo has them: bare state dicts with tables, one per quality.
    made = {}

    def fetch(url, **options):
        assert options["check_hash"]
        assert options["weights_only"]
        quality = next(q for q, u in model_urls["mbt2018-mean"]["mse"].items() if u == url)
        torch.manual_seed(quality)
        network = CompressAICodec("mbt2018-mean", quality, size="paper").model
        network.update(force=True)
        made[quality] = network.state_dict()
        return dict(made[quality])

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    codec = CompressAICodec("mbt2018-mean", [1, 5], weights="zoo").eval()
    assert tuple(p.name for p in codec.points) == ("quality=1", "quality=5")
    for quality in (1, 5):
        codec.load_point(codec.find_point(f"quality={quality}"))
        state = codec.model.state_dict()
        assert torch.equal(state["g_a.0.weight"], made[quality]["g_a.0.weight"])
    x = photo[..., :64, :64]
    (stream,) = codec.compress(x, "quality=5")
    with pytest.raises(ValueError, match="another codec or other weights"):
        codec.decompress([stream], "quality=1")


def test_no_network_is_an_error_that_names_the_address(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(ValueError, match=r"mbt2018-mean-3.*no route"):
        CompressAICodec("mbt2018-mean", 3, weights="zoo")


def test_the_loss_is_lambda_distortion_plus_rate(photo):
    codec = CompressAICodec("mbt2018-mean", 2, size=[8, 12])
    out = codec.rate_distortion(photo[..., :64, :64])
    expected = LAMBDAS["mse"][1] * 255**2 * out["mse_loss"] + out["bpp_loss"]
    assert torch.allclose(out["loss"], expected)


def shipped() -> VariableRateCodec:
    codec: VariableRateCodec = instantiate(compose_config(["codec=mbt2018_mean_vbr"]).codec)
    return codec.eval()


def test_gains_are_compressai_s_for_its_lambdas():
    from compressai.models import MeanScaleHyperpriorVbr

    expected = MeanScaleHyperpriorVbr(8, 8).Gain
    assert torch.allclose(VariableRateCodec(8, 8).model.Gain, expected, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"lambdas": [0.1, 0.01]},
        {"lambdas": []},
        {"lambdas": [0.0, 0.1]},
        {"draw": [1]},
        {"draw": [0.0] * 8},
        {"level": []},
    ],
)
def test_rates_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=r"lambdas|draw|level"):
        VariableRateCodec(8, 8, **arguments)


def test_the_shipped_model_has_eight_rates_that_rise(photo):
    codec = shipped()
    x = photo[..., :256, :256]
    sizes, errors = [], []
    for point in codec.points:
        (stream,) = codec.compress(x, point)
        sizes.append(len(stream))
        errors.append(float((codec.decompress([stream], point) - x).square().mean()))
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True)


def test_a_stream_decodes_on_another_number_of_threads_and_memory_format(photo):
    codec = shipped()
    x = photo[..., :200, :300]
    threads = torch.get_num_threads()
    try:
        for point in codec.points:
            torch.set_num_threads(1)
            (stream,) = codec.compress(x, point)
            expected = codec.decompress([stream], point)
            torch.set_num_threads(2)
            other = shipped().to(memory_format=torch.channels_last)
            # One lost symbol would make noise of all that follows it.
            assert (other.decompress([stream]) - expected).abs().max() < 1e-4
    finally:
        torch.set_num_threads(threads)


def test_coding_leaves_the_network_as_it_was(photo):
    codec = shipped()
    names = set(codec.state_dict())
    h_s = codec.model.h_s
    codec.decompress(codec.compress(photo[..., :64, :64]))
    assert codec.model.h_s is h_s
    assert set(codec.state_dict()) == names


def test_a_stream_carries_its_level(photo):
    codec = shipped()
    (stream,) = codec.compress(photo[..., :64, :64], "level=6")
    x_hat = codec.decompress([stream], "level=6")
    assert torch.equal(codec.decompress([stream], "level=0"), x_hat)
    with pytest.raises(ValueError, match="choose from 0 to 7"):
        VariableRateCodec(8, 8, level=[8])


@pytest.mark.network
def test_real_zoo_weights(photo):
    codec = CompressAICodec("bmshj2018-hyperprior", 3, weights="zoo").eval()
    x_hat = codec.decompress(codec.compress(photo))
    assert 10 * torch.log10(1 / (photo - x_hat).square().mean()) > 30


def test_tables_that_are_built_under_autocast_are_the_same():
    torch.manual_seed(0)
    codec = CompressAICodec("bmshj2018-hyperprior", size=[16, 24]).eval()
    expected = codec.fingerprint()
    codec.on_test_epoch_start()  # they are built anew
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.fingerprint() == expected


def test_what_compressai_s_own_loader_takes_is_loaded(tmp_path, photo):
    settings = {"architecture": "cheng2020-anchor", "size": [16]}
    codec = CompressAICodec(**settings).eval()
    state = {
        "module."
        + key.replace(".skip.", ".downsample.")
        .replace("entropy_bottleneck._bias", "entropy_bottleneck._biases.")
        .replace("entropy_bottleneck._matrix", "entropy_bottleneck._matrices.")
        .replace("entropy_bottleneck._factor", "entropy_bottleneck._factors."): value
        for key, value in codec.model.state_dict().items()
    }
    assert load_pretrained(dict(state)).keys() == codec.model.state_dict().keys()
    training = {
        "state_dict": state,
        "loss": np.float64(0.5),
        "epoch": np.int64(7),
        "is_best": np.bool_(True),
        "args": argparse.Namespace(lmbda=0.01),
    }
    for number, checkpoint in enumerate((state, training)):
        path = tmp_path / f"{number}.pth.tar"
        torch.save(checkpoint, path)
        again = CompressAICodec(**settings, weights=str(path)).eval()
        x = photo[..., :64, :64]
        assert again.compress(x) == codec.compress(x)
