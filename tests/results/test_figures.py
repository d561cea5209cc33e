import pytest
from matplotlib.axes import Axes

from diffcodec.points import Point
from diffcodec.results.curves import Curve
from diffcodec.results.figures import plot_curves

POINTS = (Point("quality=1"), Point("quality=2"))


def make(name="jpeg", meta=None, **results):
    keys = {key.replace("_rgb", "-rgb").replace("ms_", "ms-"): v for key, v in results.items()}
    metrics = tuple({key: values[i] for key, values in keys.items()} for i in range(2))
    return Curve(name, POINTS, metrics, meta or {})


def test_the_figure_has_a_panel_for_each_headline_and_a_line_for_the_ceiling(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda self, y, **_: drawn.append(y))
    curve = make(
        "grey",
        {"ceiling": {"psnr-rgb": 26.0, "fd_effnet": 0.01, "lpips": 0.3}},
        **{"bpp": [0.1, 0.2], "psnr_rgb": [20.0, 21.0], "fd_effnet": [0.3, 0.2]},
    )
    plot_curves([curve], tmp_path / "curve.png")
    assert drawn == [26.0, 0.01]
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_each_curve_is_a_line(tmp_path, monkeypatch):
    lines = {}
    plot = Axes.plot

    def record(self, x, y, *, label, **options):
        lines[label] = list(zip(x, y, strict=True))
        return plot(self, x, y, label=label, **options)

    monkeypatch.setattr(Axes, "plot", record)
    curves = [
        make("perco steps=5", bpp=[0.2, 0.1], psnr_rgb=[21.0, 20.0]),
        make("perco steps=20", bpp=[0.1, 0.2], psnr_rgb=[19.0, 20.0]),
    ]
    plot_curves(curves, tmp_path / "curve.png")
    assert lines == {
        "perco steps=5": [(0.1, 20.0), (0.2, 21.0)],
        "perco steps=20": [(0.1, 19.0), (0.2, 20.0)],
    }


@pytest.mark.parametrize(
    ("values", "scales"), [([0.05, 0.004], ["log"]), ([0.05, 0.01], []), ([0.05, 0.0], [])]
)
def test_realism_over_a_decade_is_drawn_by_its_logarithm(tmp_path, monkeypatch, values, scales):
    drawn = []
    monkeypatch.setattr(Axes, "set_yscale", lambda self, scale: drawn.append(scale))
    curve = make(bpp=[0.1, 0.2], psnr_rgb=[20.0, 21.0], fd_effnet=values)
    plot_curves([curve], tmp_path / "curve.png")
    assert drawn == scales
