import pytest

from experiments.cli import CONFIG_DIR, compose_config
from experiments.settings import describe, read_arguments, shown


def lines_of(*overrides):
    return list(describe(compose_config(list(overrides)), CONFIG_DIR))


def test_every_argument_is_told_with_its_default_and_its_meaning():
    lines = lines_of("codec=jpeg", "codec.quality=30")
    assert "codec: diffcodec.base.classical.PillowCodec" in lines
    place = lines.index("  codec.quality  (default null, here 30)")
    assert lines[place + 1].strip().startswith("operating points of all but JPEG 2000")
    assert "  codec.format  (required, here JPEG)" in lines


def test_parts_are_told_below_their_keys_and_groups_with_their_choices():
    lines = lines_of("codec=sdedit")
    assert any(line.startswith("codec/prior=… one of ") and "hub" in line for line in lines)
    assert "codec.base: diffcodec.base.vbr.VariableRateCodec" in lines
    assert any(line.startswith("  codec.base.level  (default null") for line in lines)


@pytest.mark.parametrize("name", ["cdc", "ddcm", "diffc", "elic", "perco"])
def test_all_arguments_of_a_codec_are_described(name):
    lines = lines_of(f"codec={name}")
    keys = [i for i, line in enumerate(lines) if line.startswith("  codec.")]
    untold = [lines[i] for i in keys if not "".join(lines[i + 1 : i + 2]).startswith("      ")]
    assert not untold


def test_keys_that_are_not_set_have_the_values_of_the_weights():
    lines = lines_of("codec=perco")
    assert "  codec.steps  (default null, with these weights 2)" in lines
    assert "  codec.hyper_encoder.N  (default 192, with these weights 40)" in lines
    assert "  codec.hyper_encoder.N  (default 192)" in lines_of(
        "codec=perco", "codec.backbone.weights=null"
    )
    assert "  codec.width  (default 64, with these weights 16)" in lines_of("codec=cdc")
    assert "  codec.width  (default 64, here 8)" in lines_of("codec=cdc", "codec.width=8")


def test_without_a_codec_it_says_what_to_give():
    with pytest.raises(ValueError, match="choose one by codec="):
        lines_of("experiment=sdedit/prior")


def test_docstrings_are_read_in_google_style():
    told = """One line.

    Args:
        a, b: first
            and second: line.
        c: alone.

    Raises:
        ValueError: no argument.
    """
    import inspect

    assert read_arguments(inspect.cleandoc(told)) == {
        "a": "first and second: line.",
        "b": "first and second: line.",
        "c": "alone.",
    }


def test_values_are_shown_as_in_yaml():
    assert [shown(v) for v in (None, True, 0.5, (1, 2), "x")] == [
        "null",
        "true",
        "0.5",
        "[1, 2]",
        "x",
    ]
