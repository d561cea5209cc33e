"""`index.html`: one file with its data and scripts, which opens from disk."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from diffcodec.metrics import find_metric, ordered, spans_a_decade
from experiments.comparison.figures import color_of
from experiments.comparison.lines import Line, measured, metas_of
from experiments.comparison.pictures import Pictures
from experiments.comparison.runs import Run
from experiments.comparison.table import Table

PARTS = Path(__file__).parent / "page"
SCRIPTS = ("chart.js", "viewer.js", "start.js")
BRIEF_LINES = 12  # entries of a config in a tooltip


def write_page(
    path: Path,
    curves: Sequence[Line],
    table: Table,
    pictures: Sequence[Pictures],
    rate: str = "bpp",
) -> None:
    """Write the page; pictures are referenced by paths relative to it."""
    data = json.dumps(page_data(curves, table, pictures, rate), allow_nan=False)
    # "<" could end the script element.
    data = data.replace("<", "\\u003c")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = (PARTS / "index.html").read_text(encoding="utf-8")
    page = page.replace("/*STYLE*/", (PARTS / "page.css").read_text(encoding="utf-8"))
    page = page.replace("/*SCRIPT*/", script).replace("/*DATA*/", data)
    path.write_text(page, encoding="utf-8")


def page_data(
    curves: Sequence[Line], table: Table, pictures: Sequence[Pictures], rate: str
) -> dict[str, Any]:
    """The data of the page's scripts, as JSON types."""
    runs = list(dict.fromkeys(run for curve in curves for run in curve.runs))
    numbers = {id(run): number for number, run in enumerate(runs)}
    rates = [r for curve in curves for r, _ in curve.pairs("bpp", rate)]
    return {
        "title": table.title,
        "warnings": table.warnings,
        "rate": find_metric(rate).label,
        "logarithmic": spans_a_decade(rates),
        "metrics": [
            {
                "key": metric.key,
                "label": metric.label,
                "axis": ", ".join(
                    filter(None, (metric.axis_label, metric.counted(metas_of(curves, metric))))
                ),
                "better": (metric.better == "higher") - (metric.better == "lower"),
            }
            for metric in measured(curves)
        ],
        "curves": [
            {
                "label": curve.label,
                "color": color_of(i),
                "published": curve.published,
                "ceiling": dict(curve.ceiling),
                "points": [
                    {
                        "name": point.name,
                        "run": numbers[id(point.run)],
                        "rate": point.metrics.get(rate, point.metrics["bpp"]),
                        "metrics": dict(point.metrics),
                    }
                    for point in curve.points
                    if "bpp" in point.metrics
                ],
            }
            for i, curve in enumerate(curves)
        ],
        "runs": [_run_data(run) for run in runs],
        "images": [asdict(image) for image in pictures],
        "imageMetrics": [
            {
                "key": metric.key,
                "heading": metric.column or metric.heading,
                "better": (metric.better == "higher") - (metric.better == "lower"),
            }
            for metric in ordered(
                key for image in pictures for item in image.items for key in item["metrics"]
            )
        ],
        "table": {
            "columns": [heading for _, heading in table.columns],
            "rows": [[{"text": c.text, "notes": c.notes} for c in row] for row in table.rows],
            "footnotes": table.footnotes,
        },
    }


def _run_data(run: Run) -> dict[str, str]:
    lines = _yaml(run.config.get("codec")).splitlines()
    if len(lines) > BRIEF_LINES:
        lines = [*lines[: BRIEF_LINES - 1], "…"]
    meta = {k: v for k, v in run.meta.items() if k not in ("config", "points")}
    return {
        "source": run.source,
        "brief": "\n".join(lines),
        "config": "\n".join(filter(None, (_yaml(meta), _yaml(run.config)))),
    }


def _yaml(data: Any) -> str:
    if not data:
        return ""
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None))
