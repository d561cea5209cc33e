import pytest
import torch

from diffcodec.base.classical import PillowCodec
from diffcodec.cdc import ResidualCDC
from diffcodec.cdc.refiner import Refiner
from diffcodec.weights.model_folder import save_model


def drawn() -> Refiner:
    torch.manual_seed(0)
    refiner = Refiner(8)
    with torch.no_grad():
        refiner.conv_out.weight.normal_(std=0.1)
    return refiner.requires_grad_(False)


def residual(**options) -> ResidualCDC:
    torch.manual_seed(0)
    codec = ResidualCDC(PillowCodec("JPEG", quality=30), width=4, steps=1, gamma=1.0, **options)
    if "weights" not in options:
        with torch.no_grad():
            codec.unet.conv_out.weight.normal_(std=0.05)
    return codec.eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(torch.randn(3, 1, 3, 24, 32))


def test_an_untrained_refiner_returns_the_output_of_the_unet(inputs):
    torch.testing.assert_close(Refiner(8)(*inputs), inputs[0], rtol=0, atol=0)


def test_all_pixels_of_a_block_have_the_same_weights(inputs):
    """Shifted by one pixel, the result shifts by one pixel, away from the border."""
    refiner = drawn()
    shifted = refiner(*(t.roll((1, 1), dims=(2, 3)) for t in inputs))
    expected = refiner(*inputs).roll((1, 1), dims=(2, 3))
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(shifted[inner], expected[inner])
    assert (expected - inputs[0].roll((1, 1), dims=(2, 3)))[inner].abs().max() > 0.1


@pytest.mark.parametrize("changed", range(3))
def test_the_correction_depends_on_every_input(inputs, changed):
    others = [t if i != changed else t + 1 for i, t in enumerate(inputs)]
    correction = drawn()(*inputs) - inputs[0]
    assert not torch.allclose(drawn()(*others) - others[0], correction)


def test_weights_without_a_refiner_load_into_a_codec_with_one(photo, tmp_path):
    x = photo[..., :64, :64]
    plain = residual()
    save_model(plain, tmp_path)
    refined = residual(refiner_width=8, weights=str(tmp_path))
    streams = plain.compress(x)
    assert refined.compress(x) == streams
    assert torch.equal(refined.decompress(streams), plain.decompress(streams))
    with torch.no_grad():
        refined.refiner.conv_out.weight.normal_(std=0.1)
    again = tmp_path / "refined"
    save_model(refined, again)
    loaded = residual(refiner_width=8, weights=str(again))
    assert torch.equal(loaded.decompress(streams), refined.decompress(streams))
    assert not torch.equal(loaded.decompress(streams), plain.decompress(streams))


def test_a_negative_width_is_refused():
    with pytest.raises(ValueError, match="refiner_width must be at least 0, got -1"):
        residual(refiner_width=-1)
