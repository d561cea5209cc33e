"""What ships: each is a folder as `Codec.save` and trainings write them."""

import pytest
from safetensors.torch import load_file

from diffcodec.weights.model_folder import load_model, saved_state
from diffcodec.weights.sources import find_config, shipped

LIMIT = 60 << 20


@pytest.mark.parametrize("name", sorted(shipped()))
def test_it_loads_by_its_name_and_is_in_half_precision(name):
    model = load_model(name)
    path = shipped()[name] / "model.safetensors"
    if not path.is_file():  # all of it are other things that ship
        assert not saved_state(model)
        return
    state = load_file(path)
    assert saved_state(model).keys() <= state.keys()
    assert {str(t.dtype) for t in state.values() if t.is_floating_point()} == {"torch.float16"}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_its_config_is_what_would_be_written_of_it(name, tmp_path):
    from diffcodec.weights.model_folder import save_model

    written = find_config(str(save_model(load_model(name), tmp_path)))
    assert written == find_config(name)


def test_all_together_they_are_small():
    assert sum(p.stat().st_size for f in shipped().values() for p in f.iterdir()) < LIMIT
