"""The measurements as tables, and compared with an earlier measurement."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SAME = ("device", "device_name", "threads")  # otherwise ratios would compare machines


def read_benchmark(path: str) -> dict[str, Any]:
    """Read an earlier `benchmark.json`.

    Raises:
        ValueError: the file does not exist, or is not a benchmark.
    """
    try:
        data = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict) or "coding" not in data:
        raise ValueError(f"{path} is not a benchmark.json: it has no 'coding'")
    return data


def compare(new: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Ratios new / old of everything both measured, and a warning if the machines differ."""
    before = {_key(row): row for row in (*old["coding"], *old["training"])}
    ratios = []
    for row in (*new["coding"], *new["training"]):
        other = before.get(_key(row))
        if other is None:
            continue
        ratio = {key: row[key] for key in ("variant", "size", "batch")}
        for stage in ("encode", "decode"):
            if stage in row:
                ratio[stage] = _median(row[stage]) / _median(other[stage])
        if "seconds" in row:
            ratio["training"] = _median(row) / _median(other)
        if row.get("peak_mib") and other.get("peak_mib"):
            ratio["peak_mib"] = row["peak_mib"] / other["peak_mib"]
        ratios.append(ratio)
    differing = [key for key in SAME if new["meta"].get(key) != old["meta"].get(key)]
    warning = ""
    if differing:
        warning = "measured elsewhere: " + ", ".join(
            f"{key} {old['meta'].get(key)} then, {new['meta'].get(key)} now" for key in differing
        )
    return ratios, warning


def coding_table(data: Mapping[str, Any]) -> "Table":
    """One row per variant, size and batch size: milliseconds per image."""
    ratios = {_key(row): row for row in data.get("ratios", [])}
    table = _table(f"{data['name']} at {data['point']}: coding, ms per image (quartiles)")
    headings = ["variant", "size", "batch", "encode", "network/entropy/rest"]
    headings += ["decode", "network/entropy/rest", "decoded/s", "MiB", "GFLOP", "of peak"]
    if ratios:
        headings += ["encode ×", "decode ×"]
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i > 1 else "left", no_wrap=True)
    for row in data["coding"]:
        cells = [row["variant"], row["size"], str(row["batch"])]
        for stage in ("encode", "decode"):
            cells += [_spread(row[stage]["seconds"]), _parts(row[stage]["parts"])]
        cells += [
            f"{row['decode']['images_per_second']:.3g}",
            f"{row['peak_mib']:.0f}" if row["peak_mib"] else "",
            f"{row['decode']['flops'] / 1e9:.3g}",
            f"{100 * row['decode']['share_of_peak']:.2g}%",
        ]
        if ratios:
            ratio = ratios.get(_key(row), {})
            cells += [f"{ratio[s]:.2f}" if s in ratio else "" for s in ("encode", "decode")]
        table.add_row(*cells)
    return table


def training_table(data: Mapping[str, Any]) -> "Table":
    """One row per variant: time per optimizer step."""
    table = _table(f"{data['name']}: training, ms per step (quartiles)")
    ratios = {_key(row): row for row in data.get("ratios", []) if "training" in row}
    for heading in ("variant", "size", "batch", "step", "images/s", "MiB", "×"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for row in data["training"]:
        ratio = ratios.get(_key(row), {}).get("training")
        table.add_row(
            *(row["variant"], row["size"], str(row["batch"]), _spread(row["seconds"])),
            f"{row['images_per_second']:.3g}",
            f"{row['peak_mib']:.0f}" if row["peak_mib"] else "",
            f"{ratio:.2f}" if ratio else "",
        )
    return table


def data_table(data: Mapping[str, Any]) -> "Table":
    """Throughput of the loader of training images."""
    row = data["data"]
    table = _table(f"{data['name']}: training images")
    for heading in ("loader processes", "batch", "ms per batch", "images/s", "first after s"):
        table.add_column(heading, justify="right")
    table.add_row(
        *(str(row["workers"]), str(row["batch"]), _spread(row["seconds"])),
        *(f"{row['images_per_second']:.3g}", f"{row['first_seconds']:.3g}"),
    )
    return table


def _table(title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", box=SIMPLE_HEAD)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # Training and coding of the same variant, size and batch are separate rows.
    kind = "training" if "training" in row or "seconds" in row else "coding"
    return kind, row["variant"], row["size"], row["batch"]


def _median(row: Mapping[str, Any]) -> float:
    return float(row["seconds"]["median"])


def _spread(seconds: Mapping[str, float]) -> str:
    low, middle, high = (1e3 * seconds[key] for key in ("low", "median", "high"))
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def _parts(parts: Mapping[str, float]) -> str:
    return "/".join(f"{1e3 * parts[key]:.3g}" for key in ("network", "entropy", "rest"))
