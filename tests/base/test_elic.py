import re

import pytest
import torch

from diffcodec.base.elic import VARIANTS, Elic

SMALL = {"N": 12, "M": 144, "groups": [4, 4, 8, 16, 112]}


def to_public_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CompressAI's keys -> those of the public ELIC checkpoints, written out by hand."""
    public = {"gaussian_conditional.scale_table": torch.arange(3.0)}
    for key, value in state.items():
        if key.endswith(("_quantized_cdf", "_offset", "_cdf_length", "scale_table")):
            continue
        key = re.sub(r"^latent_codec\.hyper\.", "", key)
        key = re.sub(r"bottleneck\.matrices\.(\d)", r"bottleneck._matrix\1", key)
        key = re.sub(r"bottleneck\.biases\.(\d)", r"bottleneck._bias\1", key)
        key = re.sub(r"bottleneck\.factors\.(\d)", r"bottleneck._factor\1", key)
        key = re.sub(
            r"^latent_codec\.y\.channel_context\.y(\d)\.",
            lambda m: f"cc_transforms.{int(m[1]) - 1}.",
            key,
        )
        key = re.sub(
            r"^latent_codec\.y\.latent_codec\.y(\d)\.context_prediction\.",
            r"context_prediction.\1.",
            key,
        )
        key = re.sub(
            r"^latent_codec\.y\.latent_codec\.y(\d)\.entropy_parameters\.",
            r"ParamAggregation.\1.",
            key,
        )
        if not key.startswith("latent_codec."):
            public[key] = value
    return public


def test_chandelier_has_the_size_of_the_public_checkpoints():
    assert sum(p.numel() for p in Elic().model.parameters()) == 33_792_771


@pytest.mark.parametrize("layout", ["public", "public, in state_dict", "own"])
def test_weights_in_every_layout_give_the_same_bytes(tmp_path, photo, layout):
    torch.manual_seed(0)
    codec = Elic(**SMALL).eval()
    state = codec.model.state_dict()
    if layout != "own":
        state = to_public_layout(state)
        assert {"h_a.0.weight", "cc_transforms.0.0.weight", "ParamAggregation.4.0.weight"} <= set(
            state
        )
    torch.save({"state_dict": state} if "in" in layout else state, tmp_path / "w.pth.tar")
    loaded = Elic(**SMALL, weights=str(tmp_path / "w.pth.tar")).eval()
    x = photo[..., :70, :90]
    assert loaded.compress(x) == codec.compress(x)
    assert torch.equal(loaded.decompress(codec.compress(x)), codec.decompress(codec.compress(x)))


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save({"g_a.0.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth do not fit"):
        Elic(**SMALL, weights=str(tmp_path / "w.pth"))


def test_variants_and_groups_are_checked():
    with pytest.raises(ValueError, match="choose from"):
        Elic("unofficial")
    with pytest.raises(ValueError, match="sum to 3, not to M=320"):
        Elic(groups=[1, 2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_equals_the_forward_pass(variant, photo):
    torch.manual_seed(0)
    codec = Elic(variant, **SMALL).eval()
    x = photo[..., :128, :64]
    with torch.no_grad():
        expected = codec.model(x)["x_hat"].clamp(0, 1)
    assert (codec.decompress(codec.compress(x)) - expected).abs().max() < 1e-5
