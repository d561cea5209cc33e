import pytest

from diffcodec.perco.rate_points import build_points
from diffcodec.perco.rates import Rate

LOW, HIGH = Rate(8, 256), Rate(64, 256)


def test_points_are_in_order_of_rate_and_name_what_was_listed():
    names = [point.name for point in build_points([HIGH, LOW], steps=5, guidance=3)]
    assert names == ["rate=8x8/256", "rate=64x64/256"]
    names = [point.name for point in build_points([LOW], steps=[5, 20], guidance=[1, 3.5])]
    assert names == [
        "rate=8x8/256,steps=5,guidance=1",
        "rate=8x8/256,steps=5,guidance=3.5",
        "rate=8x8/256,steps=20,guidance=1",
        "rate=8x8/256,steps=20,guidance=3.5",
    ]


def test_what_the_encoder_does_and_what_the_decoder_does_are_told_apart():
    points = build_points(
        [HIGH, LOW], condition=["both", "local"], caption=[None, "a cat"], num_samples=2
    )
    assert len(points) == 2 * 2 * 2 * 2
    assert [p.rate["rate"] for p in points] == [LOW.name] * 8 + [HIGH.name] * 8
    (point,) = (
        p for p in points if p.name == "rate=8x8/256,condition=local,caption=a cat,sample=1"
    )
    assert point.encoding == {"condition": "local", "caption": "a cat"}
    assert point.decoding == {"steps": None, "guidance": 3.0, "guided": "text", "sample": 1}


def test_null_steps_in_a_list_are_the_rates_own():
    assert [p.decoding["steps"] for p in build_points([LOW], steps=[None, 2])] == [None, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be in 1 to 50, got 0"),
        ({"condition": ["both", "edges"]}, "'edges', choose from both, text, local"),
        ({"guided": "codes"}, "unknown guided 'codes', choose from text, text_and_codes"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"guidance": []}, "empty"),
        ({"guidance": [1, 1.0]}, "duplicate names: rate=8x8/256,guidance=1"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_points([LOW], **options)
