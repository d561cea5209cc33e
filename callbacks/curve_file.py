"""`curve.json`: CompressAI's results schema, and what is needed to know what was measured."""

import csv
import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Our metric names -> the schema's; what is not listed keeps its name.
SCHEMA_NAMES = {
    "bpp_payload": "bpp-payload",
    "psnr": "psnr-rgb",
    "ms_ssim": "ms-ssim-rgb",
    "encode_seconds": "encoding_time",
    "decode_seconds": "decoding_time",
}


def curve(
    name: str,
    points: Sequence[str],
    metrics: Sequence[Mapping[str, float]],
    meta: Mapping[str, Any],
    description: str = "",
) -> dict[str, Any]:
    """A curve as JSON data: one value per operating point and metric; null where there is none."""
    keys = list(dict.fromkeys(key for point in metrics for key in point))
    results = {
        SCHEMA_NAMES.get(key, key): [_finite(point.get(key)) for point in metrics] for key in keys
    }
    return {
        "name": name,
        "description": description,
        "meta": {**meta, "points": list(points)},
        "results": results,
    }


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write JSON in one step, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")
    partial.replace(path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one CSV line per mapping, with the keys of the first as its header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def safe_name(name: str) -> str:
    """A name of a point or a series as that of a file or folder."""
    return re.sub(r"[^\w=.,-]+", "_", name)


def git_revision() -> str | None:
    """Revision of the checkout that this code runs from, `-dirty` if it was changed."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
