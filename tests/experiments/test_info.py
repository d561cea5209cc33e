import pytest

from diffcodec.weights.sources import shipped
from experiments import info


def test_without_a_name_everything_that_ships_is_listed(capsys):
    info.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(shipped())
    assert all(len(line.split()) > 5 for line in lines)


def test_a_card_is_shown(capsys):
    info.main(["cdc_residual"])
    card = capsys.readouterr().out
    assert "non-commercial research" in card
    assert "experiment=cdc/few_steps" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["sd21"], "no shipped model 'sd21', choose from cdc, "), (["cdc", "perco"], "one name at a")],
)
def test_other_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        info.main(arguments)
