import pytest
from PIL import Image

from diffcodec.points import combine
from experiments.compare import compare, parser
from experiments.comparison.figures import draw_all
from experiments.comparison.lines import join
from experiments.comparison.lines_over import draw_over, lines_over


@pytest.fixture
def steps(make_run):
    """Two rates, decoded in one, five and twenty steps."""
    points = combine(rate={"rate": ["8x8/256", "64x64/256"]}, decoding={"steps": [20, 1, 5]})
    return make_run(
        "perco",
        {
            "bpp": [0.003] * 3 + [0.12] * 3,
            "lpips": [0.40, 0.50, 0.45, 0.11, 0.12, 0.10],
            "psnr-rgb": [18.0, 20.0, 19.0, 24.0, 25.0, 24.5],
            "decoding_time": [2.0, 0.1, 0.5, 2.1, 0.2, 0.6],
        },
        points=points,
        codec={},
    )


def values(lines, metric):
    return {
        name: [(x, point.metrics[metric]) for x, point in series] for name, series in lines.items()
    }


def test_over_a_setting_there_is_a_line_for_each_rate(steps):
    curves, _ = join([steps])
    assert values(lines_over(curves, "steps"), "lpips") == {
        "rate=8x8/256": [(1, 0.50), (5, 0.45), (20, 0.40)],
        "rate=64x64/256": [(1, 0.12), (5, 0.10), (20, 0.11)],
    }


def test_over_the_decoding_time_steps_make_a_line(steps):
    curves, _ = join([steps])
    lines = values(lines_over(curves, "decoding_time"), "lpips")
    assert lines["rate=8x8/256"] == [(0.1, 0.50), (0.5, 0.45), (2.0, 0.40)]
    assert set(lines) == {"rate=8x8/256", "rate=64x64/256"}


def test_presets_are_told_apart_by_their_solver(make_run):
    points = combine(rate={"level": [3]}, decoding={"preset": ["ode5", "ode9", "sde50"]})
    solvers = {"ode5": "dpmpp_2m", "ode9": "dpmpp_2m", "sde50": "euler_sde"}
    run = make_run(
        "sdedit",
        {"bpp": [0.3] * 3, "fid": [30.0, 20.0, 10.0], "decoding_time": [1.0, 2.0, 9.0]},
        points=points,
        codec={"preset": {name: {"solver": solver} for name, solver in solvers.items()}},
    )
    curves, _ = join([run])
    assert values(lines_over(curves, "decoding_time", ["solver"]), "fid") == {
        "solver=dpmpp_2m": [(1.0, 30.0), (2.0, 20.0)],
        "solver=euler_sde": [(9.0, 10.0)],
    }


def test_several_codecs_keep_their_names(steps, make_run):
    points = combine(decoding={"steps": [1, 17]})
    cdc = make_run("cdc", {"bpp": [0.2, 0.2], "lpips": [0.3, 0.2]}, points=points, codec={})
    lines = lines_over(join([steps, cdc])[0], "steps")
    assert set(lines) == {"perco rate=8x8/256", "perco rate=64x64/256", "cdc"}


@pytest.mark.parametrize("x", ["gamma", "rate"])
def test_what_no_point_has_a_number_for_is_refused_with_the_choices(steps, x):
    with pytest.raises(ValueError, match=f"no point has a value of '{x}'.*rate, steps"):
        lines_over(join([steps])[0], x)


def test_the_figure_has_a_panel_for_each_metric(steps, tmp_path):
    (path,) = draw_over(join([steps])[0], "steps", tmp_path)
    assert path.name == "over_steps.png"
    text = path.with_suffix(".svg").read_text()
    assert all(f"<!-- {label} -->" in text for label in ("steps", "LPIPS, lower is better"))
    assert "bits per pixel" not in text  # which steps do not change
    assert Image.open(path).width > 800


def test_a_comparison_draws_it_where_it_is_asked_for(outputs, tmp_path):
    folders = [str(outputs)]
    options = parser().parse_args([*folders, "--x", "quality", "--output", str(tmp_path)])
    compare(options)
    assert (tmp_path / "over_quality.png").is_file()


def test_more_metrics_than_an_overview_shows_make_a_grid(make_run, tmp_path):
    keys = ("psnr-rgb", "ms-ssim-rgb", "fsim", "gmsd", "nlpd", "vsi", "mad", "dists", "fid")
    results = {"bpp": [0.1, 0.2, 0.4], **{key: [1.0, 2.0, 3.0] for key in keys}}
    curves, _ = join([make_run("a", results), make_run("b", results, source="b/curve.json")])
    written = {path.name for path in draw_all(curves, tmp_path)}
    assert {"overview.png", "grid.png", "fsim.png"} <= written
    grid, overview = (Image.open(tmp_path / f"{name}.png") for name in ("grid", "overview"))
    assert grid.height > 1.5 * overview.height
    assert all(label in (tmp_path / "grid.svg").read_text() for label in ("FSIM", "NLPD", "MAD"))
