import pytest

from experiments.comparison.compatibility import check, unstated
from experiments.comparison.lines import join
from experiments.comparison.runs import find_runs

OURS = {"bpp": [0.1, 0.2], "bpp-payload": [0.09, 0.19], "psnr-rgb": [28, 30], "fid": [9, 5]}
THEIRS = {"bpp": [0.1, 0.2], "psnr-rgb": [28, 30], "fid": [9, 5]}
KODAK = {
    **{"dataset": "kodak", "num_images": 24, "sizes": ["512x768", "768x512"]},
    **{"fid": "256x256 tiles, second pass at offset 128 (NeuralCompression)", "num_patches": 192},
}


def curves(make_run, meta, results=OURS):
    ours = make_run("ours", OURS, source="a", **KODAK)
    return join([ours, make_run("theirs", results, source="b", **meta)])[0]


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({"dataset": "clic2020"}, "data set: kodak (ours) against clic2020 (theirs)"),
        ({"num_images": 23}, "images: 24 (ours) against 23 (theirs)"),
        ({"sizes": ["256x256"]}, "sizes: 512x768+768x512 (ours) against 256x256 (theirs)"),
        ({"fid": "whole images"}, "against whole images (theirs)"),
        ({"num_patches": 140}, "FID patches: 192 (ours) against 140 (theirs)"),
        ({"rate": "bpp: without header"}, "rate: with header (ours) against without header"),
    ],
)
def test_what_differs_is_refused_and_named(make_run, meta, field):
    results = THEIRS if "rate" in meta else OURS
    found = curves(make_run, {**KODAK, **meta}, results)
    with pytest.raises(ValueError, match="cannot be compared") as error:
        check(found)
    assert field in str(error.value)
    ours, theirs = check(found, allow=True)
    name = field.partition(":")[0] if ":" in field else "FID"
    assert f"[{name}: " in ours.label
    assert f"[{name}: " in theirs.label


def test_what_is_not_said_is_no_difference_but_is_told(make_run):
    found = curves(make_run, {}, THEIRS)
    assert [curve.label for curve in check(found)] == ["ours", "theirs"]
    assert unstated(found) == {
        field: ["theirs"] for field in ("data set", "images", "sizes", "rate", "FID", "FID patches")
    }


def test_one_protocol_in_other_words_is_the_same(make_run):
    check(curves(make_run, {**KODAK, "fid": "256x256 patches, second pass at offset 128"}))


def test_the_fid_protocol_is_no_matter_to_curves_without_fid(make_run):
    results = {"bpp": [0.1, 0.2], "psnr-rgb": [28, 30]}
    check(curves(make_run, {**KODAK, "fid": "whole images", "num_patches": 1}, results))


def test_rates_without_header_are_compared_by_asking_for_them(make_run):
    found = curves(make_run, {"rate": "bpp: without header"}, THEIRS)
    check(found, rate="bpp-payload")
    assert found[0].pairs("psnr-rgb", "bpp-payload") == [(0.09, 28), (0.19, 30)]
    assert found[1].pairs("psnr-rgb", "bpp-payload") == [(0.1, 28), (0.2, 30)]


def test_published_sets_are_told_apart(published):
    kodak = find_runs([str(published / "ms-illm.json"), str(published / "vtm.json")])
    other = find_runs([str(published.parent / "clic2020" / "ms-illm.json")])
    check(join(kodak)[0])  # VTM's file does not say it, its folder does
    with pytest.raises(ValueError, match=r"data set: kodak \(.*VTM.*\) against clic2020"):
        check(join(kodak + other)[0])


def test_sets_that_leave_out_other_images_are_not_compared(make_run):
    def run(name, *skipped):
        meta = {**KODAK, "num_skipped": len(skipped), "skipped": list(skipped)}
        return make_run(name, OURS, source=name, **meta)

    check(join([run("ours", "a.png"), run("theirs", "a.png"), make_run("old", OURS, **KODAK)])[0])
    with pytest.raises(ValueError, match=r"skipped images: none \(ours\) against a.png \(theirs\)"):
        check(join([run("ours"), run("theirs", "a.png")])[0])
    with pytest.raises(ValueError, match=r"skipped images: a.png \(ours\) against b.png"):
        check(join([run("ours", "a.png"), run("theirs", "b.png")])[0])
