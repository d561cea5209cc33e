from dataclasses import replace

import pytest

from diffcodec.points import Point, combine
from experiments.comparison.lines import join

CDC = {"_target_": "diffcodec.cdc.CDC", "rho": 0.0, "lmbda": 0.01, "weights": "a"}


def measured(bpp, psnr=30.0):
    return {"bpp": [bpp], "psnr-rgb": [psnr]}


def names(curves):
    return [curve.name for curve in curves]


def test_runs_that_differ_in_their_rate_alone_are_one_curve(make_run):
    runs = [
        make_run(
            *("cdc", measured(bpp)),
            source=str(bpp),
            points=combine(rate={"lmbda": codec["lmbda"]}, decoding={"steps": 17, "gamma": 0}),
            codec=codec,
        )
        for bpp, codec in [
            (0.4, CDC | {"lmbda": 0.003, "weights": "b"}),
            (0.2, CDC),
            (0.3, CDC | {"lmbda": 0.005, "weights": "c"}),
        ]
    ]
    (curve,), remarks = join(runs)
    assert [p.metrics["bpp"] for p in curve.points] == [0.2, 0.3, 0.4]
    assert curve.name == "cdc"
    assert not remarks


def three(**decoding):
    """Points of three rates for `make_run`'s results."""
    return combine(rate={"lmbda": [0.01, 0.02, 0.04]}, decoding=decoding)


def test_what_else_differs_keeps_them_apart_and_names_them(make_run):
    curves, _ = join(
        [
            make_run("cdc", source="a", codec=CDC, points=three()),
            make_run("cdc", source="b", codec=CDC | {"rho": 0.9}, points=three()),
            make_run("jpeg", source="c", codec={"format": "JPEG"}, points=three()),
        ]
    )
    assert names(curves) == ["cdc (rho=0.0)", "cdc (rho=0.9)", "jpeg"]


def test_other_weights_at_one_rate_are_another_model(make_run):
    curves, _ = join(
        [
            make_run("cdc", source="a", codec=CDC, points=three()),
            make_run("cdc", source="b", codec=CDC | {"weights": "b"}, points=three()),
        ]
    )
    assert names(curves) == ["cdc (weights=a)", "cdc (weights=b)"]


def test_a_list_in_the_config_does_not_part_what_is_one_point(make_run):
    several = combine(rate={"lmbda": 0.01}, decoding={"gamma": [0.0, 0.8]})[:1]
    alone = combine(rate={"lmbda": 0.003}, decoding={"gamma": 0.0})
    curves, _ = join(
        [
            make_run("cdc", measured(0.2), source="a", points=several, codec={"gamma": [0, 0.8]}),
            make_run(
                *("cdc", measured(0.3)),
                **{"source": "b", "points": alone, "codec": {"gamma": 0, "lmbda": 0.003}},
            ),
        ]
    )
    assert [len(curve.points) for curve in curves] == [2]


def test_one_run_may_hold_several_curves(make_run):
    results = {"bpp": [0.1, 0.1, 0.2, 0.2], "psnr-rgb": [28, 26, 30, 28]}
    points = [
        Point(f"{series},level={level}", {"level": level}, {}, {"preset": series}, series)
        for level in (0, 1)
        for series in ("base", "fast")
    ]
    (base, fast), _ = join([make_run("sdedit", results, points=points, codec={"N": 64})])
    assert (base.name, fast.name) == ("sdedit base", "sdedit fast")
    assert base.pairs("psnr-rgb") == [(0.1, 28), (0.2, 30)]
    assert fast.pairs("psnr-rgb") == [(0.1, 26), (0.2, 28)]


def test_settings_inside_a_part_are_not_those_of_a_point(make_run):
    points = combine(rate={"lmbda": [0.1, 0.2, 0.3]}, decoding={"preset": "fast"})
    codecs = [{"preset": {"fast": {"steps": steps}}} for steps in (1, 2)]
    runs = [make_run("x", source=str(i), points=points, codec=c) for i, c in enumerate(codecs)]
    assert names(join(runs)[0]) == ["x (steps=1)", "x (steps=2)"]


def test_older_files_whose_points_have_names_alone_are_curves_of_their_own(make_run):
    runs = [make_run("cdc", source=source, codec=CDC) for source in ("a", "b")]
    curves, _ = join(runs)
    assert names(curves) == ["cdc (a)", "cdc (b)"]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (["name"], ["cdc"]),
        (["name", "rho"], ["cdc (rho=0.0)", "cdc (rho=0.9)"]),
        (["gamma"], ["cdc gamma=0", "cdc gamma=1"]),
        (["series"], ["cdc gamma=0", "cdc gamma=1"]),
        (["run"], ["cdc (a)", "cdc (b)"]),
    ],
)
def test_by_says_otherwise(make_run, by, expected):
    results = {"bpp": [0.1, 0.2], "psnr-rgb": [28, 30]}
    points = combine(rate={"lmbda": 0.01}, decoding={"gamma": [0, 1]})
    runs = [
        make_run("cdc", results, source=source, points=points, codec=codec)
        for source, codec in [("a", CDC), ("b", CDC | {"rho": 0.9})]
    ]
    assert names(join(runs, by)[0]) == expected
    with pytest.raises(ValueError, match="no run has a setting 'gama'"):
        join(runs, ["gama"])


def test_of_repeated_runs_the_newest_counts(make_run, tmp_path):
    old, new = (
        make_run(
            *("jpeg", measured(0.2, psnr)),
            **{"source": s, "codec": {"format": "JPEG"}, "points": combine(rate={"quality": 5})},
        )
        for s, psnr in [("old", 29.0), ("new", 31.0)]
    )
    (curve,), remarks = join([replace(new, modified=2.0), replace(old, modified=1.0)])
    assert curve.pairs("psnr-rgb") == [(0.2, 31.0)]
    assert remarks == ["jpeg was run more than once: new is the newest"]


def test_published_files_of_one_name_stay_apart(make_run):
    curves, _ = join([make_run("vtm", source="a/vtm.json"), make_run("vtm", source="b/vtm.json")])
    assert names(curves) == ["vtm (a/vtm.json)", "vtm (b/vtm.json)"]
