import pytest

from diffcodec.perco.points import Setting, build_settings
from diffcodec.perco.rates import Rate

LOW, HIGH = Rate(8, 256), Rate(64, 256)


def test_names_hold_the_settings_that_were_listed():
    assert [*build_settings([HIGH, LOW], steps=5, guidance=3)] == ["8x8/256", "64x64/256"]
    names = [*build_settings([LOW], steps=[5, 20], guidance=[1, 3.5])]
    assert names == [
        "8x8/256,steps=5,guidance=1",
        "8x8/256,steps=5,guidance=3.5",
        "8x8/256,steps=20,guidance=1",
        "8x8/256,steps=20,guidance=3.5",
    ]


def test_all_combinations_in_order_of_rate():
    settings = build_settings(
        [HIGH, LOW], condition=["both", "local"], caption=[None, "a cat"], num_samples=2
    )
    assert len(settings) == 2 * 2 * 2 * 2
    assert [s.rate for s in settings.values()] == [LOW] * 8 + [HIGH] * 8
    assert settings["8x8/256,condition=local,caption=a cat,sample=1"] == Setting(
        LOW, None, 3.0, "local", "a cat", 1
    )


def test_null_steps_in_a_list_are_the_rates_own():
    assert [s.steps for s in build_settings([LOW], steps=[None, 2]).values()] == [None, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be in 1 to 50, got 0"),
        ({"condition": ["both", "edges"]}, "'edges', choose from both, text, local"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"guidance": []}, "empty"),
        ({"guidance": [1, 1.0]}, "'8x8/256,guidance=1' is given twice"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_settings([LOW], **options)
