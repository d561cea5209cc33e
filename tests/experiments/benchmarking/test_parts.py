import pytest
import torch

from experiments.benchmark import overrides
from experiments.benchmarking.coding import photograph, spread
from experiments.benchmarking.machine import clock_of, matmul_peak, peak_memory
from experiments.benchmarking.summary import compare, read_benchmark
from experiments.benchmarking.variants import build_variants, parse_size
from experiments.cli import compose_config


def test_sizes():
    assert parse_size(256) == (256, 256)
    assert parse_size("512x768") == (512, 768)
    for wrong in ("512x", "0", "a", "1x2x3", "-5"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(wrong)


@pytest.mark.parametrize("size", [(64, 96), (512, 768), (1024, 1024)])
def test_photographs_of_any_size(size):
    image = photograph(*size)
    assert image.shape == (1, 3, *size)
    assert 0 <= image.min() < image.max() <= 1
    corner = photograph(32, 32)
    assert torch.equal(image[..., :32, :32], corner)


def test_a_variant_whose_key_the_codec_does_not_have_is_left_out():
    cfg = compose_config(["codec=cdc_residual", "name=cdc_residual"], "benchmark").copy()
    cfg = type(cfg)({key: cfg[key] for key in ("name", "codec", "channels_last")})
    wanted = {
        "eager": [],
        "channels_last": ["channels_last=true"],
        "bf16": ["codec.decode_precision=bf16"],
        "tiled": ["codec.tiles=4", "codec.compile=true"],
    }
    made, left_out = build_variants(cfg, wanted)
    assert list(made) == ["eager", "channels_last", "bf16"]
    assert left_out == {"tiled": "codec=cdc_residual has no codec.tiles"}
    assert made["channels_last"].channels_last is True
    assert made["bf16"].codec.decode_precision == "bf16"
    assert "decode_precision" not in made["eager"].codec


def test_medians_and_quartiles():
    times = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (times.median, times.low, times.high) == (3, 2, 4)
    assert spread([2.0]).low == 2


def test_the_machine():
    assert matmul_peak(torch.device("cpu"), torch.float32) > 1e8
    clock = clock_of(torch.device("cpu"))
    assert clock() <= clock()
    with peak_memory(torch.device("cpu")) as memory:
        before = torch.ones(1 << 20)
        torch.ones(64 << 20).sum()  # 256 MiB, given back
    with peak_memory(torch.device("cpu")) as small:
        before += 1
    if memory.mib is not None and small.mib is not None:
        assert memory.mib - small.mib > 200


def row(variant, encode, **other):
    stage = {"seconds": {"median": encode}}
    return {
        "variant": variant,
        "size": "256",
        "batch": 1,
        "encode": stage,
        "decode": stage,
        **other,
    }


def test_ratios_are_of_what_both_measured():
    meta = {"device": "cpu", "device_name": "a", "threads": 1}
    old = {"meta": meta, "coding": [row("eager", 2.0, peak_mib=10)], "training": []}
    new = {
        "meta": meta,
        "coding": [row("eager", 1.0, peak_mib=20), row("bf16", 1.0)],
        "training": [],
    }
    ratios, warning = compare(new, old)
    assert ratios == [
        {
            "variant": "eager",
            "size": "256",
            "batch": 1,
            "encode": 0.5,
            "decode": 0.5,
            "peak_mib": 2,
        },
    ]
    assert not warning
    _, warning = compare(new, {**old, "meta": {**meta, "threads": 4}})
    assert warning == "measured elsewhere: threads 4 then, 1 now"


def test_the_command_line_takes_against_both_ways(tmp_path):
    assert overrides(["codec=jpeg", "--against", "a b.json"]) == [
        "codec=jpeg",
        "against='a b.json'",
    ]
    assert overrides(["against=a.json"]) == ["against=a.json"]
    (tmp_path / "x.json").write_text("[]")
    for path in (tmp_path / "x.json", tmp_path / "y.json"):
        with pytest.raises(ValueError, match=r"x\.json is not a benchmark|cannot read"):
            read_benchmark(str(path))
