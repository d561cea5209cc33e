import pytest

from experiments.comparison.datasets import by_dataset, side_by_side
from experiments.comparison.lines import join
from experiments.comparison.table import build_table


@pytest.fixture
def runs(make_run):
    """Two codecs on `a`, one of them on `b`, too; on `b` alone the realism is measured."""
    rates, times = [0.1, 0.2, 0.4], [0.5] * 3
    low, high = [28.0, 31.0, 34.0], [29.0, 32.0, 35.0]
    return [
        make_run("base", {"bpp": rates, "psnr-rgb": low}, source="1", dataset="a"),
        make_run("good", {"bpp": rates, "psnr-rgb": high}, source="2", dataset="a"),
        make_run(
            "base",
            {"bpp": rates, "psnr-rgb": low, "fid": [9.0, 5.0, 2.0], "decoding_time": times},
            source="3",
            dataset="b",
        ),
    ]


@pytest.fixture
def table(runs):
    tables = {}
    for dataset, group in by_dataset(runs).items():
        curves, _ = join(group)
        tables[dataset] = build_table(curves, curves[0])
    return side_by_side(tables)


def cells(table, row):
    return dict(zip((key for key, _ in table.columns), table.rows[row], strict=True))


def test_each_data_set_has_its_columns(table):
    headings = [heading for _, heading in table.columns]
    assert headings == [
        *("codec", "a: dec (s)", "a: BD-PSNR"),
        *("b: dec (s)", "b: BD-FID", "b: BD-PSNR"),
    ]
    assert [row[0].text for row in table.rows] == ["base (anchor)", "good"]
    assert cells(table, 1)["a/bd_psnr-rgb"].value == pytest.approx(1)
    assert cells(table, 0)["b/decoding_time"].value == pytest.approx(0.5)


def test_blanks_say_why_and_footnotes_keep_their_texts(table):
    for key, row, reason in [
        ("b/bd_psnr-rgb", 1, "b: not run"),
        ("a/decoding_time", 0, "a: no times"),
    ]:
        cell = cells(table, row)[key]
        assert cell.text == ""
        assert [table.footnotes[number - 1] for number in cell.notes] == [reason]
    assert any(text.startswith("BD figures: bjontegaard package") for text in table.footnotes)


def test_a_run_must_say_what_it_was_measured_on(make_run):
    with pytest.raises(ValueError, match=r"x/y\.json does not state its data set"):
        by_dataset([make_run(source="x/y.json")])
