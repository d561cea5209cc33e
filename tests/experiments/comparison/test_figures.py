import pytest

from experiments.comparison.figures import draw_all
from experiments.comparison.lines import join

OWN = {"bpp": [0.1, 0.2], "psnr-rgb": [28.0, 30.0], "fd_effnet": [0.2, 0.1]}
THEIRS = {"bpp": [0.1, 0.2], "psnr-rgb": [29.0, 31.0], "fid": [9.0, 5.0], "lpips": [0.2, 0.1]}


@pytest.fixture
def runs(make_run):
    own = [make_run(name, OWN, source=name, codec={"width": 1}) for name in ("a", "b")]
    return own, [make_run(name, THEIRS, source=name) for name in ("c", "d")]


def test_an_overview_has_no_panels_of_published_curves_alone(runs, tmp_path):
    own, published = runs
    draw_all(join([*own, *published])[0], tmp_path / "both")
    overview = (tmp_path / "both" / "overview.svg").read_text()
    assert "PSNR" in overview
    assert "LPIPS" not in overview
    assert "EffNet" in overview
    assert (tmp_path / "both" / "lpips.png").is_file()
    draw_all(join(published)[0], tmp_path / "published")
    assert "LPIPS" in (tmp_path / "published" / "overview.svg").read_text()
