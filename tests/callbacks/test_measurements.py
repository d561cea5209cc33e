import json

import torch

from callbacks.measurements import Batch, Features, Measurements


def batch(index, value=0.5):
    features = Features(index, {"inception": torch.full((2, 3), value)})
    features.fake["a=1"] = {"inception": torch.full((2, 3), -value)}
    features.numbers["a=1"] = {"miou": torch.full((4,), index)}
    return Batch([{"point": "a=1", "index": index, "psnr": value, "name": f"{index}"}], [features])


def read(folder, key="pass"):
    return {b.rows[0]["index"]: b for b in Measurements(folder).read(key) if b.rows}


def started(folder, about=None):
    kept = Measurements(folder)
    kept.start(about or {"seed": 0})
    return kept


def test_what_every_process_wrote_is_read(tmp_path):
    for process, value in ((0, 0.1), (3, float("inf"))):
        started(tmp_path).append(process, "pass", batch(process, value))
    found = read(tmp_path)
    assert [b.rows for b in found.values()] == [batch(0, 0.1).rows, batch(3, float("inf")).rows]
    of_image = found[0].features[0]
    assert torch.equal(of_image.real["inception"], torch.full((2, 3), 0.1))
    assert torch.equal(of_image.fake["a=1"]["inception"], torch.full((2, 3), -0.1))
    assert torch.equal(found[3].features[0].numbers["a=1"]["miou"], torch.full((4,), 3))
    assert read(tmp_path, "another pass") == {}


def test_what_was_cut_off_is_left_out_and_the_rest_goes_on(tmp_path):
    kept = started(tmp_path)
    for index in range(3):
        kept.append(0, "pass", batch(index))
    lines, blobs = (tmp_path / "measured" / f"process-0.{suffix}" for suffix in ("jsonl", "bin"))
    lines.write_bytes(lines.read_bytes()[:-7])
    assert set(read(tmp_path)) == {0, 1}
    again = started(tmp_path)
    again.append(0, "pass", batch(7, 0.7))
    found = read(tmp_path)
    assert set(found) == {0, 1, 7}
    assert torch.equal(found[7].features[0].real["inception"], torch.full((2, 3), 0.7))
    broken = bytearray(blobs.read_bytes())
    broken[60] ^= 1  # in the features of the first image
    blobs.write_bytes(broken)
    assert set(read(tmp_path)) == {1, 7}


def test_hostile_lines_are_left_out(tmp_path):
    kept = started(tmp_path)
    kept.append(0, "pass", batch(1))
    with (tmp_path / "measured" / "process-0.jsonl").open("a") as file:
        for entry in ([], {}, {"pass": "pass", "rows": [], "features": [[1, -5, 10**30, 0]]}, 3):
            file.write(json.dumps(entry) + "\n")
        file.write("\x00\x01\n")
    assert set(read(tmp_path)) == {1}


def test_what_was_measured_otherwise_is_forgotten(tmp_path):
    started(tmp_path, {"seed": 0}).append(0, "pass", batch(1))
    started(tmp_path, {"seed": 0})
    assert set(read(tmp_path)) == {1}
    started(tmp_path, {"seed": 1})
    assert read(tmp_path) == {}


def test_in_the_end_nothing_is_left(tmp_path):
    kept = started(tmp_path)
    kept.append(0, "pass", batch(1))
    kept.remove()
    assert not list(tmp_path.iterdir())
