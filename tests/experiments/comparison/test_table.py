import csv
import io

import pytest

from experiments.comparison.lines import join
from experiments.comparison.render import csv_rows, to_csv, to_latex, to_markdown
from experiments.comparison.table import all_deltas, build_table, find_anchor


@pytest.fixture
def curves(make_run):
    rates = [0.1, 0.2, 0.4]
    results = {
        **{"bpp": rates, "psnr-rgb": [28.0, 31.0, 34.0], "fid": [9.0, 6.0, 3.0]},
        **{"encoding_time": [1.0, 2.0, 3.0], "decoding_time": [0.1, 0.1, 0.1]},
    }
    better = results | {"psnr-rgb": [29.0, 32.0, 35.0], "fid": [8.0, 5.0, 2.0]}
    return join(
        [
            make_run("base", results, source="a", num_parameters=2_000_000, codec={"N": 1}),
            make_run("good_100%", better, source="b", num_parameters=3_000_000, codec={"N": 2}),
            make_run("far", {"bpp": [2.0, 3.0], "psnr-rgb": [50.0, 55.0]}, source="c"),
        ]
    )[0]


@pytest.fixture
def table(curves):
    return build_table(curves, curves[0])


def by_heading(table, row):
    return dict(zip((heading for _, heading in table.columns), table.rows[row], strict=True))


def test_a_row_has_the_paper_s_columns(table):
    cells = by_heading(table, 1)
    assert cells["BD-PSNR"].value == pytest.approx(1)
    assert cells["BD-FID"].value == pytest.approx(-1)
    assert cells["BD-rate (%)"].value == pytest.approx(100 * (2 ** (-1 / 3) - 1))
    assert cells["enc (s)"].value == pytest.approx(2)
    assert cells["dec (s)"].value == pytest.approx(0.1)
    assert cells["params (M)"].value == pytest.approx(3)
    assert cells["shared bpp"].text == "0.1–0.4"
    assert by_heading(table, 0)["BD-PSNR"].text == "0"
    assert by_heading(table, 0)["codec"].text == "base (anchor)"


def test_what_cannot_be_computed_is_blank_and_has_a_footnote(table):
    cells = by_heading(table, 2)
    for heading, reason in [
        ("BD-PSNR", "the rates do not overlap: 0.1 to 0.4 and 2 to 3"),
        ("BD-rate (%)", "the values of psnr-rgb do not overlap"),
        ("BD-FID", "this curve has no fid"),
        ("dec (s)", "no times"),
        ("params (M)", "number of parameters not stated"),
        ("shared bpp", "no shared rates"),
    ]:
        cell = cells[heading]
        assert cell.text == ""
        assert cell.value is None
        assert any(reason in table.footnotes[number - 1] for number in cell.notes), heading


def test_a_small_overlap_is_a_footnote_and_a_warning(make_run):
    wide = make_run("wide", {"bpp": [0.1, 1.0, 10.0], "psnr-rgb": [20.0, 40.0, 60.0]}, source="a")
    narrow = make_run("narrow", {"bpp": [0.9, 1.1], "psnr-rgb": [39.0, 41.0]}, source="b")
    curves, _ = join([wide, narrow])
    table = build_table(curves, curves[0])
    assert "the curves share only 4% of what they span" in table.footnotes
    assert any("BD-PSNR of narrow rests on 0.9 to 1.1" in text for text in table.warnings)


def test_an_anchor_is_found_or_the_names_are_listed(curves):
    assert find_anchor(curves, "far").name == "far"
    assert find_anchor(curves, None).name == "base"
    with pytest.raises(ValueError, match="no curves are named 'vtm', choose from 'base'"):
        find_anchor(curves, "vtm")


def test_renderings_hold_the_same_numbers(table, curves):
    markdown, latex = to_markdown(table), to_latex(table)
    assert "| good_100% | 0.1–0.4 |" in markdown
    assert r"good\_100\% & 0.1--0.4 &" in latex
    assert latex.count(r" \\") == 1 + len(curves) + len(table.footnotes)
    assert "\n<sup>1</sup> " in markdown
    assert "| <sup>1</sup> |" in markdown
    rows = list(csv.DictReader(io.StringIO(to_csv(csv_rows(table)))))
    assert float(rows[1]["bd_psnr-rgb"]) == pytest.approx(1)
    assert rows[2]["bd_psnr-rgb"] == ""
    assert "do not overlap" in rows[2]["notes"]


def test_the_spreadsheet_has_both_interpolations(curves):
    rows = all_deltas(curves, curves[0])
    own = [r for r in rows if r["curve"] == "good_100%" and r["metric"] == "psnr-rgb"]
    assert {(r["kind"], r["method"]) for r in own} == {
        (kind, method)
        for kind in ("BD-metric", "BD-rate (%)")
        for method in ("akima", "pchip", "cubic")
    }
    assert all(row["reason"] for row in rows if row["value"] is None)
