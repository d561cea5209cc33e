import pytest
from matplotlib.axes import Axes

from callbacks.figures import plot_curves


def test_the_figure_makes_room_for_the_ceiling(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.axhline", lambda self, y, **_: drawn.append((self.get_ylabel(), y))
    )
    curve = {
        "name": "grey",
        "meta": {"ceiling": {"psnr-rgb": 26.0}, "points": ["quality=1", "quality=2"]},
        "results": {"bpp": [0.1, 0.2], "psnr-rgb": [20.0, 21.0], "ms-ssim-rgb": [0.7, 0.8]},
    }
    plot_curves([curve], tmp_path / "curve.png")
    assert [y for _, y in drawn] == [26.0]
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_what_decodes_the_same_bytes_otherwise_is_a_line_of_its_own(tmp_path, monkeypatch):
    lines = {}
    plot = Axes.plot

    def record(self, x, y, *, label, **options):
        lines[label] = list(zip(x, y, strict=True))
        return plot(self, x, y, label=label, **options)

    monkeypatch.setattr(Axes, "plot", record)
    points = ["8x8/256,steps=5,w=3", "16x16/1024,steps=5,w=3", "8x8/256,steps=20,w=3"]
    curve = {
        "name": "perco",
        "meta": {"points": points},
        "results": {"bpp": [0.1, 0.2, 0.1], "psnr-rgb": [20.0, 21.0, 19.0]},
    }
    plot_curves([curve], tmp_path / "curve.png")
    assert lines == {
        "perco steps=5": [(0.1, 20.0), (0.2, 21.0)],
        "perco steps=20": [(0.1, 19.0)],
    }


@pytest.mark.parametrize(
    ("values", "scales"), [([0.05, 0.004], ["log"]), ([0.05, 0.01], []), ([0.05, 0.0], [])]
)
def test_realism_over_a_decade_is_drawn_by_its_logarithm(tmp_path, monkeypatch, values, scales):
    drawn = []
    monkeypatch.setattr(Axes, "set_yscale", lambda self, scale: drawn.append(scale))
    curve = {
        "name": "jpeg",
        "meta": {"points": ["quality=1", "quality=2"]},
        "results": {"bpp": [0.1, 0.2], "psnr-rgb": [20.0, 21.0], "fd_random": values},
    }
    plot_curves([curve], tmp_path / "curve.png")
    assert drawn == scales
