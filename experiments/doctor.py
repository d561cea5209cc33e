"""List what a run needs from elsewhere and what is missing. Nothing is downloaded.

    python -m experiments.doctor codec=perco codec/backbone=sd21 datamodule=kodak
    python -m experiments.doctor experiment=paper/perco_coco512 datamodule.root=DIR

Takes the arguments of `experiments.run`. Exits with 1 if something is missing that a run does not
fetch itself. With `trainer=fsdp` it also estimates the memory of a training step on 1, 4 and 8
GPUs.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.build import is_sharded
from experiments.cli import compose_config, fail
from experiments.downloads import Need, needs_of

STATES = {
    "here": "here",
    "download": "to download",
    "missing": "MISSING",
    "unknown": "NOT KNOWN",
}
BYTES_PER_GB = 1e9
GPUS = (1, 4, 8)  # that estimates are made for


def report(needs: Sequence[Need]) -> list[str]:
    """The printed lines: needs by state, memory and disk."""
    lines = []
    for state, title in STATES.items():
        for need in (need for need in needs if need.state == state):
            source = need.source
            name = need.location if source is None else source.title
            lines.append(f"{title:<12}{name}{'' if not need.optional else ' (optional)'}")
            lines += [f"{'':<12}{line}" for line in _facts(need)]
    download = [need.source for need in needs if need.state == "download" and need.source]
    total = sum(source.gigabytes or 0 for source in dict.fromkeys(download))
    unsized = [source.title for source in download if source.gigabytes is None]
    told = f"download    {_gigabytes(total)} in total" if download else "download    nothing"
    lines.append(told + (f", and {', '.join(unsized)} of unknown size" if unsized else ""))
    weights = {n.source for n in needs if n.source and n.source.kind in ("weights", "network")}
    held = sum(source.gigabytes or 0 for source in weights)
    lines.append(
        f"memory      {_memory()}; in float32, the listed networks take about {_gigabytes(held)}"
    )
    free = shutil.disk_usage(Path.home()).free / BYTES_PER_GB
    lines.append(f"disk        {_gigabytes(free)} free in {Path.home()}")
    return lines


def estimates(cfg: DictConfig) -> Iterator[str]:
    """Memory of a training step on each of several GPUs that shard the networks."""
    from experiments.memory import estimate, has_estimate

    if not has_estimate(cfg):
        yield "per GPU     unknown: only PerCo over Stable Diffusion 1.5 or 2.1 is estimated"
        return
    for count in GPUS:
        yield f"per GPU     {estimate(cfg, count)}"


def _facts(need: Need) -> list[str]:
    source = need.source
    facts = []
    if source is not None:
        where = need.location if need.location.startswith("hf://") else source.source
        facts.append(where)
        size = "unknown size" if source.gigabytes is None else _gigabytes(source.gigabytes)
        facts.append(f"{size}; licence: {source.licence}; checksum: {source.checksum}")
        if source.note:
            facts.append(source.note)
    if need.told and (source is None or need.told != source.note):
        facts.append(need.told)
    facts.append(f"for {need.where}")
    return facts


def _gigabytes(value: float) -> str:
    if value >= 1:
        return f"{value:.1f} GB"
    return f"{value * 1000:.0f} MB" if value >= 0.001 else "under 1 MB"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{_gigabytes(memory.available / BYTES_PER_GB)} free"


def main(arguments: Sequence[str]) -> int:
    """Print the report of a command line; returns 1 if something is missing or unknown."""
    if set(arguments) & {"-h", "--help"}:
        print((__doc__ or "").strip())
        return 0
    cfg = compose_config(list(arguments))
    needs = needs_of(cfg)
    print("\n".join(report(needs)))
    if is_sharded(cfg):
        for line in estimates(cfg):
            print(line, flush=True)
    blocking = [n for n in needs if n.state in ("missing", "unknown") and not n.optional]
    return 1 if blocking else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError) as error:
        fail(error)
