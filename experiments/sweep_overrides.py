"""Overrides of a multirun, applied in each job independent of its group choices.

Hydra composes a multirun once with its default groups before it looks at the sweep, and would
refuse `-m codec=jpeg,webp codec.quality=50` because the default codec has no quality. An override
written as a sweep of one value, `codec.quality=choice(50)`, is applied in the jobs only.
"""

from collections.abc import Sequence
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from experiments.cli import CONFIG_NAME, append, appended_keys, compose_config, is_group

_NULL = "'${oc.decode:null}'"
FLAGS = ("-m", "--multirun")


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether a command line is a multirun."""
    return not set(arguments).isdisjoint(FLAGS)


def for_each_job(arguments: Sequence[str]) -> list[str]:
    """The arguments of a multirun with every override deferred to the jobs."""
    return [_left_to_the_jobs(argument) for argument in arguments]


def _left_to_the_jobs(argument: str) -> str:
    key, separator, value = argument.partition("=")
    override = _parse(argument)
    if override is None or not separator or override.is_sweep_override():
        return argument
    if key.lstrip("+").startswith(("hydra.", "hydra/")) or override.is_delete():
        return argument
    if override.value() is None:  # Hydra does not treat `choice(null)` as a sweep
        return argument if is_group(override.key_or_group) else f"{key}=choice({_NULL})"
    changed = f"{key}=choice({value})"
    return changed if _parse(changed) is not None else argument


def check_jobs(arguments: Sequence[str], config_name: str = CONFIG_NAME) -> list[str]:
    """Compose one job of each combination of groups of a multirun.

    Returns:
        The arguments, with `++` before those that no YAML file of a job lists.

    Raises:
        ValueError: a job lacks a key or a choice; the message names its groups.
    """
    overrides = [override for override in map(_parse, arguments) if override is not None]
    if any(override.key_or_group == "hydra/sweeper" for override in overrides):
        return [*arguments]  # which has its own syntax
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([f"{key}={override.get_value_element_as_str()}"])
        elif override.is_discrete_sweep():
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
            # One value represents all, except for groups, which change the other keys.
            choices.append(values if is_group(override.key_or_group) else values[:1])
    added: set[str] = set()
    for job in product(*choices):
        try:
            added |= appended_keys(compose_config(list(job), config_name))
        except ValueError as error:
            swept = [own for own, all_ in zip(job, choices, strict=True) if len(all_) > 1]
            raise ValueError(f"{' '.join(swept)}: {error}" if swept else str(error)) from error
    return append(list(arguments), added)


def _parse(argument: str) -> Override | None:
    if argument.startswith("-") or "=" not in argument.lstrip("~"):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
