import json

import pytest

from experiments.build import build_coder
from experiments.calibrate import calibrate, main
from experiments.cli import compose_config

TINY = [
    *("codec=sdedit", "codec/base=jpeg", "codec.base.quality=[20]", "codec/preset=fast"),
    *("codec.calibration.size=64", "codec.calibration.count=2"),
]


def test_strengths_are_found_and_written_for_decoders(tmp_path):
    path = tmp_path / "strengths.json"
    calibrate(path, TINY)
    data = json.loads(path.read_text())
    sigma = data["strengths"]["fast"]["quality=20"]
    assert 0 < sigma < 1
    assert set(data["made_for"]) == {"base", "prior", "presets"}
    codec = build_coder(compose_config([*TINY, f"codec.strength={path}", "codec.calibration=null"]))
    assert codec.point_facts(codec.points[0]) == {"strength": sigma}


def test_what_ships_decodes_without_calibration():
    codec = build_coder(compose_config(["codec=sdedit", "codec.calibration=null"]))
    strengths = [codec.point_facts(point)["strength"] for point in codec.points]
    assert all(sigma > 0 for sigma in strengths[:8])
    assert strengths[:4] == sorted(strengths[:4], reverse=True)  # better pictures bear less noise
    other = ["codec=sdedit", "codec.calibration=null", "codec.preset.medium.steps=7"]
    codec = build_coder(compose_config(other))
    medium = next(p for p in codec.points if p.settings["preset"] == "medium")
    with pytest.raises(ValueError, match="not calibrated for preset 'medium' at level=0"):
        codec.point_facts(medium)


def test_other_codecs_and_bad_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="PillowCodec has no strengths to calibrate"):
        calibrate(tmp_path / "s.json", ["codec=jpeg"])
    with pytest.raises(ValueError, match=r"must end in \.json"):
        calibrate(tmp_path / "s.txt", ["codec=sdedit"])
    with pytest.raises(SystemExit, match=r"codec\.strength=FILE"):
        main([])
