from PIL import Image

from diffcodec.results.contact_sheet import CELL, GAP
from experiments.comparison.lines import join
from experiments.comparison.pictures import copy_pictures
from experiments.comparison.runs import find_runs
from experiments.comparison.strips import draw_strips


def test_every_codec_near_the_rate_has_a_column(outputs, tmp_path):
    # alpha has 0.2 and 0.4 bpp, beta 0.25 and 0.5.
    curves, _ = join(find_runs([str(outputs)]), [])
    pictures = copy_pictures(curves, tmp_path, 8)
    files = draw_strips(curves, pictures, tmp_path, [0.22, 0.55, 3.0])
    assert [path.name for path in files] == ["strip_0.22.png", "strip_0.55.png"]
    widths = [Image.open(path).width for path in files]
    assert widths == [3 * (CELL + GAP) + GAP] * 2
    (narrow,) = draw_strips(curves, pictures, tmp_path, [0.15])
    assert Image.open(narrow).width == 2 * (CELL + GAP) + GAP  # 0.25 is too far off


def test_without_pictures_there_is_no_strip(outputs, tmp_path):
    curves, _ = join(find_runs([str(outputs)]), [])
    assert draw_strips(curves, [], tmp_path, [0.22]) == []
