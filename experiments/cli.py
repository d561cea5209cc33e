"""Common code of the command lines: early checks of overrides, one-line errors."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Container
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.constructors import keys_of
from experiments.extras import check_extras
from experiments.overrides import quote_paths

log = logging.getLogger(__name__)

CONFIG_DIR = str(Path(__file__).parent / "configs")
CONFIG_NAME = "config"
HYDRA_VERSION = "1.3"
FULL_ERROR = "HYDRA_FULL_ERROR"


def _offer_codecs_as_bases() -> None:
    """Make every codec of `configs/codec` a choice of `codec/base` and of `codec/compressor`.

    Files in these groups take precedence. A codec that is built over a compressor is a choice of
    neither.
    """
    store = ConfigStore.instance().store
    for path in (Path(CONFIG_DIR) / "codec").glob("*.yaml"):
        name = path.stem
        if "- compressor:" in path.read_text(encoding="utf-8"):
            continue
        if not path.with_name("base").joinpath(path.name).exists():
            store(path.name, {"defaults": [{"/codec@_here_": name}]}, group="codec/base")
        if not path.with_name("compressor").joinpath(path.name).exists():
            over = ["/codec/shared/residual_cdc@_here_", {"/codec/base@compressor": name}]
            store(path.name, {"defaults": over}, group="codec/compressor", package="codec")


_offer_codecs_as_bases()


def _training_precision(accelerator: str) -> str:
    from diffcodec.networks.precision import training_precision  # imports torch

    return training_precision(accelerator)


# ${training_precision:${trainer.accelerator}} in a recipe for any machine.
OmegaConf.register_new_resolver("training_precision", _training_precision, replace=True)


def is_choice(group: str, name: str) -> bool:
    """Whether a config group, such as `codec/base`, has this choice."""
    path = f"{group}/{name}.yaml"
    is_offered = ConfigStore.instance().get_type(path) is ObjectType.CONFIG
    return is_offered or (Path(CONFIG_DIR) / path).is_file()


def is_group(name: str) -> bool:
    """Whether a key of the command line is a config group, such as `codec` or `codec/base`."""
    return (Path(CONFIG_DIR) / name.partition("@")[0]).is_dir()


def compose_config(overrides: list[str], config_name: str = CONFIG_NAME) -> DictConfig:
    """The config of these overrides, without running anything.

    Raises:
        ValueError: an override names something that does not exist; the message lists the choices.
    """
    _check_text(overrides)
    _check_renamed(overrides)
    while True:
        try:
            return _compose(overrides, config_name)
        except ValueError as error:
            key = _refused_key(error.__cause__)
            if key is None or key not in map(_key_of, overrides):
                raise
            own, listed = _choices(key, overrides, config_name)
            if own not in listed:
                raise ValueError(_no_key(key, listed)) from error
            overrides = append(overrides, {key})


def appended_keys(cfg: DictConfig) -> set[str]:
    """Keys of a composed config that its overrides appended, because no YAML file lists them."""
    return {_key_of(o) for o in cfg.hydra.overrides.task if o.startswith("++")}


def append(overrides: list[str], keys: Container[str]) -> list[str]:
    """Overrides in which these keys are appended: `++codec.lr=1e-4`."""
    return [f"++{o}" if o[:1] not in "+~" and _key_of(o) in keys else o for o in overrides]


def _compose(overrides: list[str], config_name: str) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(CONFIG_DIR, version_base=HYDRA_VERSION):
            return compose(config_name, overrides=quote_paths(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(str(error).strip()) from error


def check_overrides(arguments: list[str], config_name: str = CONFIG_NAME) -> DictConfig | None:
    """Exit with a message, before heavy imports, if the command line is wrong.

    Returns:
        The config, or None if Hydra is asked for anything but one run.
    """
    try:
        _check_text(arguments)
        _check_renamed(arguments)
        check_extras(arguments)
        if any(argument.startswith("-") for argument in arguments):
            return None  # --help, --cfg, --multirun …: Hydra's own
        _check_name(arguments)
        return compose_config(arguments, config_name)
    except ValueError as error:
        fail(error)
    return None


def _check_renamed(arguments: list[str]) -> None:
    """Name the replacement of an option of an earlier version."""
    over = [a for a in arguments if a.lstrip("+").startswith("codec/compressor=")]
    if over and (over[-1].endswith("=own") or "codec=cdc" in arguments):
        raise ValueError(
            f"{over[-1]} is not supported: use codec=cdc for CDC as in its paper, or "
            "codec=cdc_residual codec/compressor=… for its decoder over another codec"
        )


def _check_text(arguments: list[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            text = os.fsencode(argument)
            raise ValueError(f"{text!r} is not UTF-8: rename the file or folder") from None


def _check_name(arguments: list[str]) -> None:
    for argument in arguments:
        key, _, name = argument.partition("=")
        if key == "name" and (Path(name).name != name or name == ".."):
            raise ValueError(f"name={name}: a run's name is a folder name in outputs/, not a path")


def prepare_command_line(config_name: str = CONFIG_NAME) -> None:
    """Check the command line and choose the run folder before Hydra creates one."""
    from experiments.run_folder import choose_folder
    from experiments.settings import OPTION, describe
    from experiments.sweep_overrides import check_jobs, for_each_job, is_multirun

    if OPTION in sys.argv:
        try:
            chosen = compose_config([a for a in sys.argv[1:] if a != OPTION], config_name)
            sys.stdout.writelines(f"{line}\n" for line in describe(chosen, CONFIG_DIR))
        except (BrokenPipeError, ValueError) as error:
            fail(error)
        sys.exit()
    sys.argv[1:] = quote_paths(sys.argv[1:])
    cfg = check_overrides(sys.argv[1:], config_name)
    try:
        if is_multirun(sys.argv[1:]):
            sys.argv[1:] = check_jobs(for_each_job(sys.argv[1:]), config_name)
        elif cfg is not None:
            sys.argv[1:] = append(sys.argv[1:], appended_keys(cfg))
        sys.argv[1:] = choose_folder(sys.argv[1:], cfg)
    except (OSError, ValueError) as error:
        fail(error)


def fail(error: BaseException) -> None:
    """Exit with a one-line error; HYDRA_FULL_ERROR=1 shows the traceback instead."""
    if os.environ.get(FULL_ERROR) == "1":
        raise error
    message = str(root_cause(error))
    if isinstance(error, BrokenPipeError):  # otherwise Python's flush at exit fails
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "in DataLoader worker process" in message:  # the worker's traceback, and last its error
        message = message.strip().rpartition("\n")[2].partition(": ")[2]
    sys.exit(f"error: {message}")


def root_cause(error: BaseException) -> BaseException:
    """The error behind Hydra's, raised by the class that could not be built."""
    while error.__cause__ is not None and type(error).__name__ == "InstantiationException":
        error = error.__cause__
    return error


def reports_errors(function: Callable[[DictConfig], object]) -> Callable[[DictConfig], None]:
    """Decorate a task to report user errors in one line.

    In a multirun, the line is written to the run folder and the other runs continue.
    """

    def wrapped(cfg: DictConfig) -> None:
        from hydra.errors import InstantiationException

        from experiments.multirun import in_multirun, leave_failure

        try:
            function(cfg)
        except (ValueError, OSError, InstantiationException) as error:
            cause = located(root_cause(error), Path(HydraConfig.get().runtime.output_dir))
            if not in_multirun():
                fail(cause)
            leave_failure(cause)
        except Exception as error:
            if not in_multirun():
                raise
            log.exception("this run failed; the others continue")
            leave_failure(error)

    return wrapped


def located(error: BaseException, folder: Path) -> BaseException:
    """An operating system error without a file name, such as a full disk, with the folder."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        return OSError(error.errno, error.strerror, str(folder))
    return error


def quiet_libraries() -> None:
    """Suppress duplicate messages of Lightning and harmless warnings of libraries."""
    logging.raiseExceptions = False  # a closed pipe is reported once, by the next print
    logging.getLogger("lightning.pytorch").propagate = False
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for pattern in (r".*isinstance\(treespec, LeafSpec\)", r".*torch\.jit\.script"):
        warnings.filterwarnings("ignore", message=pattern)
    for pattern in (
        r".*does not have many workers",  # images are small and cached
        r".*Checkpoint directory .* exists",
        r".*no `val_dataloader`",
        r"Total length of `list` across ranks is zero",  # no validation set
        r".*module\(s\) in eval mode at the start",  # frozen parts of a codec
        r"You're using the WeightAveraging callback with a model that overrides",  # and shards not
    ):
        warnings.filterwarnings("ignore", message=pattern, module="lightning")


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _refused_key(error: BaseException | None) -> str | None:
    """The key that Hydra could not override, if that is the error."""
    match = re.search(r"Could not override '([^']+)'", str(error))
    return match and match.group(1)


def _choices(key: str, overrides: list[str], config_name: str) -> tuple[str, list[str]]:
    """The last part of a key, and what it could be: keys of YAML files, arguments of a class."""
    parent, _, name = key.rpartition(".")
    groups = [o for o in overrides if is_group(_key_of(o))]
    node = _compose(groups, config_name)
    node = OmegaConf.select(node, parent) if parent else node
    if not isinstance(node, DictConfig):
        return name, []
    return name, sorted(keys_of(node) - {"hydra"})


def _no_key(key: str, choices: list[str]) -> str:
    parent, _, name = key.rpartition(".")
    close = get_close_matches(name, choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    where = f"{parent!r}" if parent else "the config"
    return f"no key {name!r} in {where}.{hint} Choose from {', '.join(choices)}"
