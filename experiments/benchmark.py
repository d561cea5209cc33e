"""Measure how fast a codec is and where its time goes.

    python -m experiments.benchmark codec=… [--against benchmark.json] [key=value …]
    python -m experiments.benchmark data=100 datamodule=… datamodule.num_workers=8 [key=value …]

Writes benchmark.json. For each variant, size and batch size it has the seconds per image of
encoding and decoding, split into networks, entropy coding and the rest; peak memory; floating-point
operations and their share of the machine's peak for matrix products; and the time of a training
step. The second command times only the loader of training images, over so many batches.
"""

import copy
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from callbacks.tracking import never_fatal
from diffcodec.points import find_points
from experiments.build import build_codec, build_coder
from experiments.cli import (
    CONFIG_DIR,
    HYDRA_VERSION,
    prepare_command_line,
    quiet_libraries,
    reports_errors,
)
from experiments.overrides import quoted

if TYPE_CHECKING:
    from experiments.benchmarking.stopwatch import Instruments

CONFIG_NAME = "benchmark"
MIN_WIDTH = 170  # of a table that is written to a file
TRAINER_KEYS = ("accelerator", "precision")

log = logging.getLogger(__name__)


def benchmark(cfg: DictConfig) -> dict[str, Any]:
    """Measure every variant, size and batch size.

    Returns:
        The content of benchmark.json.

    Raises:
        ValueError: a setting is wrong, or the codec cannot be built.
    """
    import torch
    from lightning.pytorch import seed_everything

    from experiments.benchmarking.machine import matmul_peak
    from experiments.benchmarking.stopwatch import Instruments
    from experiments.benchmarking.summary import compare, read_benchmark
    from experiments.benchmarking.variants import build_variants, parse_size

    old = read_benchmark(cfg.against) if cfg.against else None
    if cfg.data is not None:
        return _benchmark_data(cfg)
    sizes = {str(size): parse_size(size) for size in cfg.sizes}
    variants, left_out = build_variants(cfg, OmegaConf.to_container(cfg.variants))  # type: ignore[arg-type]
    for name, reason in left_out.items():
        log.warning("skipping variant %s: %s", name, reason)
    seed_everything(cfg.seed, workers=True, verbose=False)
    device = _device(cfg)
    instruments = Instruments()
    data: dict[str, Any] = {"name": cfg.name, "point": None, "coding": [], "training": []}
    try:
        for name, variant in variants.items():
            _measure_variant(data, name, variant, sizes, device, instruments)
    finally:
        instruments.close()
    peaks = {
        str(t).partition(".")[2]: matmul_peak(device, t) for t in (torch.float32, torch.bfloat16)
    }
    for row in data["coding"]:
        for stage in (row["encode"], row["decode"]):
            speed = stage["flops"] / stage["seconds"]["median"]
            stage["share_of_peak"] = speed / peaks[stage["dtype"]]
    data["meta"] = {
        **_meta(cfg, device),
        "matmul_flops_per_second": peaks,
        "repetitions": cfg.repetitions,
        "left_out": left_out,
    }
    if old is not None:
        data["ratios"], warning = compare(data, old)
        if warning:
            log.warning(warning)
    return data


def _benchmark_data(cfg: DictConfig) -> dict[str, Any]:
    from hydra.utils import instantiate
    from lightning.pytorch import seed_everything

    from experiments.benchmarking.data import measure_data
    from experiments.build import fix_threads

    seed_everything(cfg.seed, workers=True, verbose=False)
    fix_threads(cfg.threads)
    row = measure_data(instantiate(cfg.datamodule), num_batches=cfg.data)
    name = cfg.datamodule.name
    return {
        **{"name": name, "point": None, "coding": [], "training": []},
        "data": {"datamodule": name, "workers": cfg.datamodule.num_workers, **row},
        "meta": _meta(cfg, _device(cfg)),
    }


def _meta(cfg: DictConfig, device: Any) -> dict[str, Any]:
    from diffcodec.results.provenance import git_revision
    from experiments.benchmarking.machine import describe

    config = OmegaConf.to_container(cfg, resolve=True)
    return {**describe(device), "git_revision": git_revision(), "config": config}


def _measure_variant(
    data: dict[str, Any],
    name: str,
    cfg: DictConfig,
    sizes: Mapping[str, tuple[int, int]],
    device: Any,
    instruments: "Instruments",
) -> None:
    from experiments.benchmarking.coding import count_flops, measure_coding, photograph

    options = {"repetitions": cfg.repetitions, "warmup": cfg.warmup}
    codec = build_coder(cfg) if cfg.ckpt_path else build_codec(cfg).eval()
    codec.to(device)
    point = find_points(codec.points, cfg.point)[0]
    data["point"] = point.name
    bf16 = str(cfg.codec.get("decode_precision")) == "bf16"
    dtypes = {"encode": "float32", "decode": "bfloat16" if bf16 else "float32"}
    data["parameters"] = sum(p.numel() for p in codec.parameters())
    for size, (height, width) in sizes.items():
        x = photograph(height, width)
        known = [row for row in data["coding"] if row["size"] == size]
        # All variants compute the same, and compiled code hides it.
        flops = (
            {stage: known[0][stage]["flops"] for stage in ("encode", "decode")}
            if known
            else count_flops(codec, x, point)
        )
        for batch in cfg.batch_sizes:
            images = x.expand(batch, -1, -1, -1)
            row = measure_coding(codec, images, point, instruments, **options)
            for stage, count in flops.items():
                row[stage] |= {"flops": count, "dtype": dtypes[stage]}
            data["coding"].append({"variant": name, "size": size, "batch": batch, **row})
            log.info("%s, %s, batch %d: done", name, size, batch)
    if cfg.training and codec.trainable:
        _measure_training(data, name, cfg, options)


def _measure_training(
    data: dict[str, Any], name: str, cfg: DictConfig, options: dict[str, int]
) -> None:
    from experiments.benchmarking.coding import photograph
    from experiments.benchmarking.training_steps import measure_training

    size, batch = int(cfg.training.size), int(cfg.training.batch_size)
    trainer = {key: cfg.trainer[key] for key in TRAINER_KEYS} | {"devices": 1}
    codec = build_codec(cfg)
    try:
        x = photograph(size, size).expand(batch, -1, -1, -1)
        row = measure_training(codec, x, trainer, **options)
    except ValueError as error:
        log.warning("skipping the training of variant %s: %s", name, error)
        return
    data["training"].append({"variant": name, "size": str(size), "batch": batch, **row})


def _device(cfg: DictConfig) -> Any:
    import torch

    wants_cpu = cfg.trainer.accelerator == "cpu"
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    return torch.device("cpu") if wants_cpu or accelerator is None else accelerator


def report(data: dict[str, Any], cfg: DictConfig) -> None:
    """Write benchmark.json, print the tables, and log them to W&B."""
    from hydra.core.hydra_config import HydraConfig

    from diffcodec.results.curves import write_json
    from experiments.benchmarking.summary import coding_table, data_table, training_table
    from experiments.terminal import table_console

    path = Path(HydraConfig.get().runtime.output_dir) / "benchmark.json"
    write_json(data, path)
    console = table_console(MIN_WIDTH)
    if "data" in data:
        console.print(data_table(data))
    else:
        console.print(coding_table(data))
        if data["training"]:
            console.print(training_table(data))
        peaks = data["meta"]["matmul_flops_per_second"]
        told = ", ".join(f"{name} {value / 1e9:.3g} GFLOP/s" for name, value in peaks.items())
        million = data["parameters"] / 1e6
        console.print(f"  {million:.3g} million parameters; matrix products: {told}")
    console.print(f"  {path}", highlight=False)
    with never_fatal():
        _log(data, cfg)


def _log(data: dict[str, Any], cfg: DictConfig) -> None:
    from hydra.utils import instantiate
    from lightning.pytorch.loggers import WandbLogger

    options = copy.deepcopy(cfg.logger)
    if "job_type" in options:
        options.job_type = "benchmark"
    logger = instantiate(options)
    if not isinstance(logger, WandbLogger):
        return
    run = logger.experiment
    run.config.update(data["meta"])
    rows = [_flat(row) for row in (*data["coding"], *data["training"])]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if rows:
        logger.log_table("benchmark", columns, [[row.get(key) for key in columns] for row in rows])
    if "data" in data:
        run.summary.update({f"data/{k}": v for k, v in _flat(data["data"]).items()})
    for row in rows:
        prefix = f"{row['variant']}/{row['size']}/{row['batch']}"
        run.summary.update({f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, float)})
    run.finish()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@hydra.main(config_path=CONFIG_DIR, config_name=CONFIG_NAME, version_base=HYDRA_VERSION)
@reports_errors
def main(cfg: DictConfig) -> Any:
    """Entry point of `python -m experiments.benchmark`."""
    quiet_libraries()
    report(benchmark(cfg), cfg)


def overrides(arguments: list[str]) -> list[str]:
    """A command line with `--against FILE` as Hydra reads it."""
    out = list(arguments)
    for i, argument in enumerate(out[:-1]):
        if argument == "--against":
            out[i : i + 2] = [f"against={quoted(out[i + 1])}"]
            break
    return out


if __name__ == "__main__":
    sys.argv[1:] = overrides(sys.argv[1:])
    prepare_command_line(CONFIG_NAME)
    main()
