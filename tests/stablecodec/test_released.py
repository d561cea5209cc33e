import pytest
import torch
from torch import nn

from diffcodec.latent.stable_diffusion import stable_diffusion
from diffcodec.stablecodec import StableCodec
from diffcodec.stablecodec.released import is_released, merge
from diffcodec.weights.loading import load_checkpoint
from tests.ddcm.drawn import save_drawn_pipeline
from tests.stablecodec.drawn import SIZES, save_drawn_checkpoint


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(6, 5)
        self.conv = nn.Conv2d(4, 3, 3, stride=2, padding=1)
        self.conv_in = nn.Conv2d(2, 2, 1)


def changes(rank: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "to_q.lora_A.default.weight": draw(rank, 6),
        "to_q.lora_B.default.weight": draw(5, rank),
        "conv.lora_A.default.weight": draw(rank, 4, 3, 3),
        "conv.lora_B.default.weight": draw(3, rank, 1, 1),
        "conv_in.bias": draw(2),
    }


@torch.no_grad()
def test_merged_weights_do_what_the_layer_and_its_change_do_together():
    network, state = Network(), changes()
    x, picture = torch.randn(7, 6), torch.randn(1, 4, 8, 8)
    a, b = (state[f"to_q.lora_{k}.default.weight"] for k in "AB")
    linear = network.to_q(x) + 4 * (x @ a.T) @ b.T  # alpha / r = 8 / 2
    a, b = (state[f"conv.lora_{k}.default.weight"] for k in "AB")
    low = nn.functional.conv2d(picture, a, stride=2, padding=1)
    convolved = network.conv(picture) + 4 * nn.functional.conv2d(low, b)
    merge(network, state, source="x")
    torch.testing.assert_close(network.to_q(x), linear, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.conv(picture), convolved, rtol=1e-4, atol=1e-4)
    assert torch.equal(network.conv_in.bias, state["conv_in.bias"])


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"other.lora_A.default.weight": torch.zeros(2, 6)}, r"other\.lora_A"),
        ({"conv_in.weight": torch.zeros(3)}, r"conv_in\.weight"),
        ({"to_q.lora_A.default.weight": torch.zeros(2, 7)}, r"to_q\.lora_A"),
        ({"lora_B": None}, r"to_q\.lora_A"),
    ],
)
def test_what_has_no_place_is_named(changed, key):
    state = changes()
    if "lora_B" in changed:
        del state["to_q.lora_B.default.weight"]
    else:
        state |= changed
    with pytest.raises(ValueError, match=f"weights from x do not fit: unexpected tensor {key}"):
        merge(Network(), state, source="x")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    weights, elic = save_drawn_checkpoint(folder)
    return str(save_drawn_pipeline(folder / "sd", "epsilon")), str(weights), str(elic)


def test_a_published_checkpoint_is_known_by_its_parts(files):
    assert is_released(load_checkpoint(files[1]))
    assert not is_released(load_checkpoint(files[2]))


def test_a_published_checkpoint_needs_elics_file(files):
    pipeline, weights, _ = files
    with pytest.raises(
        ValueError, match=r"needs ELIC's analysis transform: pass codec\.elic_weights=FILE"
    ):
        StableCodec(stable_diffusion(pipeline), weights=weights, **SIZES)


def test_a_checkpoint_of_other_sizes_is_refused(files):
    pipeline, weights, elic = files
    sizes = {**SIZES, "M": 32}
    with pytest.raises(ValueError, match=r"weights from .*codec\.pkl do not fit"):
        StableCodec(stable_diffusion(pipeline), weights=weights, elic_weights=elic, **sizes)


def test_a_pickle_with_code_is_not_executed(files, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    checkpoint = load_checkpoint(files[1]) | {"state_dict_vae": Hostile()}
    torch.save(checkpoint, tmp_path / "hostile.pkl")
    with pytest.raises(ValueError, match="is not a complete checkpoint of plain tensors"):
        StableCodec(stable_diffusion(files[0]), weights=str(tmp_path / "hostile.pkl"), **SIZES)
    assert not (tmp_path / "written").exists()
