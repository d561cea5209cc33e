import math

import pytest
import torch

from diffcodec.perco.index_model import NUM_GROUPS, IndexModel, groups


def test_the_groups_are_those_of_the_drawing():
    drawn = [[0, 4, 2, 4], [4, 3, 4, 3], [2, 4, 1, 4], [4, 3, 4, 3]]
    assert groups(4, 4).tolist() == drawn
    assert torch.equal(groups(9, 7), torch.tensor(drawn).tile(3, 2)[:9, :7])


def test_a_prediction_sees_the_known_codes_alone():
    torch.manual_seed(0)
    model = IndexModel(16, channels=6)
    indices = torch.randint(16, (1, 9, 9))
    known = groups(9, 9) < 3
    changed = torch.where(known, indices, torch.randint(16, (1, 9, 9)))
    assert torch.equal(model(indices, known), model(changed, known))
    changed = torch.where(known, (indices + 1) % 16, indices)
    assert not torch.allclose(model(indices, known), model(changed, known))


def test_a_network_that_knows_nothing_takes_log2_v_bits_a_code():
    model = IndexModel(32, channels=4)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    bits = model.num_bits(torch.randint(32, (2, 8, 12))).detach()
    share = torch.tensor([1, 1, 2, 4, 8]) / 16
    torch.testing.assert_close(bits, 5 * 2 * 96 * share)
    assert float(bits.sum()) == pytest.approx(2 * 96 * math.log2(32))


def test_it_is_trained_once_it_has_counted():
    model = IndexModel(8)
    assert not model.trained
    model.counts += torch.tensor([0, 1, 0, 0, 0, 0, 0, 0])
    assert model.trained


def test_every_code_is_in_one_group():
    assert sorted(groups(5, 11).unique().tolist()) == list(range(NUM_GROUPS))
