import pytest
import torch
from safetensors.torch import load_file

from diffcodec.cdc import CDC
from diffcodec.cdc.released import convert, released_state
from tests.cdc.drawn import WIDTH


@pytest.fixture
def released(drawn_reference_x0):
    """The released tensors, with what else the authors' checkpoints hold."""
    state = load_file(drawn_reference_x0.path)
    state["loss_fn_vgg.lin0.model.1.weight"] = torch.zeros(1)
    state["train_alphas_cumprod"] = CDC("x0", width=WIDTH).process.alphas_cumprod
    state["train_betas"] = torch.zeros(8193)
    return state


def load(state, tmp_path, prediction="x0", **options) -> CDC:
    torch.save(state, tmp_path / "checkpoint.pt")
    return CDC(prediction, width=WIDTH, weights=str(tmp_path / "checkpoint.pt"), **options)


def test_every_layout_loads_the_same(drawn_reference_x0, released, tmp_path):
    other = {name: tensor + 1 for name, tensor in released.items()}
    ema = {f"ema_model.{name}": tensor for name, tensor in released.items()}
    ema |= {f"online_model.{name}": tensor for name, tensor in other.items()}
    ema |= {"initted": torch.tensor([True]), "step": torch.tensor([3])}
    expected = drawn_reference_x0.codec().fingerprint()
    for checkpoint in (
        {"step": 3, "model": other, "ema": ema},
        {"step": 3, "model": released},
        released,
    ):
        assert load(checkpoint, tmp_path).fingerprint() == expected


def test_a_missing_or_unknown_key_is_refused(released, tmp_path):
    with pytest.raises(ValueError, match="surprise"):
        load({**released, "denoise_fn.surprise": torch.zeros(1)}, tmp_path)
    del released["context_fn.prior._medians"]
    with pytest.raises(ValueError, match="quantiles"):
        load(released, tmp_path)


def test_another_schedule_is_refused(released, tmp_path):
    with pytest.raises(ValueError, match="another noise schedule"):
        load({"model": released}, tmp_path, num_timesteps=1000)


def test_another_parameterization_is_refused(released, tmp_path):
    del released["train_alphas_cumprod"]
    with pytest.raises(ValueError, match="do not fit"):
        load({"model": released}, tmp_path, prediction="eps")


def test_other_checkpoints_are_not_taken_for_released_ones():
    assert released_state({"state_dict": {}, "epoch": 1}) is None
    assert released_state({"unet.time1.weight": torch.zeros(1)}) is None


def test_quantiles_are_whole_steps_from_the_medians_to_the_tails(released):
    state = convert(released)
    quantiles = state["compressor.entropy_bottleneck.quantiles"]
    medians = released["context_fn.prior._medians"].flatten()
    torch.testing.assert_close(quantiles[:, 0, 1], medians, rtol=0, atol=0)
    reach = quantiles[:, 0] - medians[:, None]
    assert (reach[:, 0] < 0).all()
    assert (reach[:, 2] > 0).all()
    torch.testing.assert_close(reach, reach.round(), rtol=0, atol=1e-4)


def test_own_weights_load_again(codec, tmp_path):
    again = CDC(weights=str(codec.save(tmp_path / "own")))
    assert again.process.prediction == codec.process.prediction
    assert again.eval().fingerprint() == codec.fingerprint()


def test_half_precision_keeps_the_bounds_of_the_likelihoods(codec, tmp_path):
    again = CDC(weights=str(codec.save(tmp_path / "half", dtype=torch.float16)))
    for model in (again.compressor.entropy_bottleneck, again.compressor.gaussian_conditional):
        assert model.likelihood_lower_bound.bound == pytest.approx(1e-9)
