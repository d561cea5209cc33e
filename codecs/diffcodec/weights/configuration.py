"""Recording of constructor arguments, their conversion to JSON, and rebuilding from it.

Codecs, priors and backbones record the arguments that they were built with, as subclasses of
`Configured` or results of functions decorated with `configured`. `config_of` converts them to JSON
types, such as `{"_target_": "diffcodec.cdc.CDC", "width": 16, …}`. Arguments that record their own
arguments become nested configs. `build` rebuilds the object from a config.

Unspecified arguments, and those set to `INHERIT`, are read from the `config.json` beside the
weights if there is one, and otherwise have their defaults. `CDC(weights="cdc")` therefore has the
sizes of these weights. None counts as a value if the argument may be None. Otherwise, as for a
width, it counts as unspecified.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from types import NoneType
from typing import Any, TypeVar, dataclass_transform, get_args, get_type_hints

from diffcodec.weights.sources import find_config, is_public, pinned

INHERIT = "inherit"
"""Value of an argument that selects the value stored with the weights, or else the default."""

TARGET = "_target_"
TRUSTED = "diffcodec."

Function = TypeVar("Function", bound=Callable[..., Any])
Group = TypeVar("Group")
_GIVEN = "_given"  # names of the fields that a group was built with


class Configured:
    """Base class that records the arguments of the constructor."""

    only_by_source: bool = False
    """Whether a saved model refers to the source of the weights and never contains them."""

    _arguments: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        init = cls.__init__
        signature = inspect.signature(init)

        @functools.wraps(init)
        def remembering(self: Any, *args: Any, **kwargs: Any) -> None:
            if type(self) is not cls:  # the subclass records its own arguments
                init(self, *args, **kwargs)
                return
            bound = _complete(cls, signature.bind_partial(self, *args, **kwargs))
            init(*bound.args, **bound.kwargs)
            self._arguments = _remembered(bound, skip=1)

        cls.__init__ = remembering  # type: ignore[method-assign]

    def arguments(self) -> dict[str, Any]:
        """The arguments to build a copy with, as objects; a subclass may omit some."""
        return self._arguments


def configured(function: Function) -> Function:
    """Decorator that records a function and its arguments in the function's result."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def remembering(*args: Any, **kwargs: Any) -> Any:
        bound = _complete(function, signature.bind_partial(*args, **kwargs))
        result = function(*bound.args, **bound.kwargs)
        result._arguments = _remembered(bound)
        result._built_by = function
        return result

    remembering.__dict__["is_configured"] = True
    return remembering  # type: ignore[return-value]


@dataclass_transform(frozen_default=True)
def argument_group(cls: type[Group]) -> type[Group]:
    """Decorator for a frozen dataclass that groups arguments of one constructor.

    Fields that are not given are read from the config beside the weights, as arguments are. Hydra
    builds a group from its `_target_`.

    Raises:
        ValueError: when built, a field is not of its type.
    """
    group = dataclasses.dataclass(frozen=True)(cls)
    init, signature = group.__init__, inspect.signature(group)
    types = get_type_hints(group)

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        for name, value in given.items():
            accepted = get_args(types[name]) or (types[name],)
            if not isinstance(value, accepted if float not in accepted else (*accepted, int)):
                wanted = " or ".join(t.__name__.replace("NoneType", "null") for t in accepted)
                raise ValueError(f"{name} must be of type {wanted}, got {value!r}")
        init(self, **given)
        object.__setattr__(self, _GIVEN, tuple(given))

    group.__init__ = checked  # type: ignore[method-assign]
    return group


def is_configured(value: Any) -> bool:
    """Whether an object has recorded its arguments."""
    return hasattr(value, "_arguments")


def arguments_of(value: Any) -> dict[str, Any]:
    """The recorded arguments of an object."""
    found: dict[str, Any] = value.arguments() if isinstance(value, Configured) else value._arguments
    return found


def is_by_reference(value: Any) -> bool:
    """Whether an object's weights are publicly available: shipped, on the hub or on the web.

    A pipeline (argument `source`) is always loaded from its source.
    """
    if not is_configured(value):
        return False
    if getattr(value, "only_by_source", False):
        return True
    arguments = value._arguments  # not `arguments()`, which may be slow
    if "weights" in arguments:
        return arguments["weights"] is not None and is_public(arguments["weights"])
    return "source" in arguments


def config_of(value: Any) -> dict[str, Any]:
    """Convert an object with recorded arguments to JSON types, for `build`.

    Sources of local weights are omitted, because the tensors are saved with the object. Sources of
    shipped weights get a checksum.

    Raises:
        ValueError: an argument is not a JSON type, an object with recorded arguments, or a
            dataclass of these.
    """
    by_reference = is_by_reference(value)
    config: dict[str, Any] = {TARGET: _name_of(getattr(value, "_built_by", type(value)))}
    for name, argument in arguments_of(value).items():
        if name == "weights" or name.endswith("_weights"):
            config[name] = pinned(argument) if by_reference and argument else None
        else:
            config[name] = _plain(argument, f"{name} of {type(value).__name__}")
    return config


def build(config: Any) -> Any:
    """Build the object of a config written by `config_of`.

    Raises:
        ValueError: the config refers to code outside this project, or has unknown or invalid
            arguments.
    """
    if isinstance(config, Mapping):
        built = {key: build(value) for key, value in config.items() if key != TARGET}
        return built if TARGET not in config else call(config[TARGET], built)
    return [build(value) for value in config] if isinstance(config, list) else config


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """Call the class or function that a `_target_` names.

    Args:
        name: qualified name of the target.
        arguments: keyword arguments.

    Raises:
        ValueError: the target is outside this project, or the arguments are unknown or invalid.
    """
    target = _find_target(name)
    known = inspect.signature(target).parameters
    if unknown := sorted(set(arguments) - set(known)):
        raise ValueError(
            f"{name} has no argument {', '.join(unknown)}, choose from {', '.join(known)}"
        )
    try:
        return target(**arguments)
    except ValueError:
        raise
    except Exception as error:  # an untrusted config may pass any value to any argument
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name} cannot be built from this config ({reason})") from error


def stored_config(source: str, target: Any) -> Mapping[str, Any] | None:
    """The config of a class or function beside the weights of a source; None if there is none.

    It may be nested in the config of a larger model, such as a backbone's in a PerCo's.
    """
    return _find_nested(find_config(source), target)


def _complete(target: Any, bound: inspect.BoundArguments) -> inspect.BoundArguments:
    """Fill in unspecified arguments from the config beside the weights."""
    parameters = bound.signature.parameters
    given = {
        name: value for name, value in bound.arguments.items() if _is_given(value, parameters[name])
    }
    for source in _sources(given):
        config = stored_config(source, target)
        if config is not None:
            given = {k: _merged(v, config.get(k)) for k, v in given.items()}
            missing = {k: build(v) for k, v in config.items() if k != TARGET and k not in given}
            if unknown := sorted(set(missing) - set(parameters)):
                raise ValueError(
                    f"the config of {source!r} has arguments that {target.__name__} does not "
                    f"take: {', '.join(unknown)}"
                )
            given |= {k: v for k, v in missing.items() if _is_given(v, parameters[k])}
            break
    required = {
        k: None for k in bound.arguments if parameters[k].default is inspect.Parameter.empty
    }
    given = {**required, **given}
    # `BoundArguments` needs the order of the signature.
    bound.arguments = {k: given[k] for k in parameters if k in given}
    return bound


def _merged(value: Any, stored: Any) -> Any:
    """A group of arguments, with the fields that were not given from the stored config."""
    if not hasattr(value, _GIVEN) or not isinstance(stored, Mapping):
        return value
    given = {name: getattr(value, name) for name in getattr(value, _GIVEN)}
    fields = {name: build(field) for name, field in stored.items() if name != TARGET}
    return call(stored[TARGET], fields | given)


def _is_given(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether an argument is specified, rather than to be read from a config."""
    if value is None:
        return parameter.default is None or NoneType in get_args(parameter.annotation)
    return not (isinstance(value, str) and value == INHERIT)


def _sources(given: Mapping[str, Any]) -> Iterator[str]:
    """The sources of weights: the object's own, then those of its parts."""
    if isinstance(given.get("weights"), str):
        yield given["weights"]
    for value in given.values():
        source = value._arguments.get("weights") if is_configured(value) else None
        if isinstance(source, str):
            yield source


def _find_nested(config: Any, target: Any) -> Mapping[str, Any] | None:
    """The outermost part of a config with the given target."""
    if isinstance(config, Mapping):
        if config.get(TARGET) == _name_of(target):
            return config
        nested = [_find_nested(value, target) for value in config.values()]
    elif isinstance(config, list):
        nested = [_find_nested(value, target) for value in config]
    else:
        return None
    return next((found for found in nested if found is not None), None)


def _remembered(bound: inspect.BoundArguments, *, skip: int = 0) -> dict[str, Any]:
    bound.apply_defaults()
    arguments = dict([*bound.arguments.items()][skip:])
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name)
        elif parameter.kind is parameter.VAR_POSITIONAL:  # such as that of `object`
            del arguments[name]
    return arguments


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_configured(value):
        return config_of(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item, name) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        private = {key: None for key in fields if key.endswith("_weights")}
        return {TARGET: _name_of(type(value)), **_plain(fields | private, name)}
    raise ValueError(f"cannot write {name}, a {type(value).__name__}, into a config")


def _name_of(target: Any) -> str:
    """The qualified name of a class or function, in its package if the package exports it."""
    target = inspect.unwrap(target)
    package = target.__module__.rpartition(".")[0]
    offered = getattr(import_module(package), target.__name__, None) if package else None
    same = offered is not None and inspect.unwrap(offered) is target
    return f"{package if same else target.__module__}.{target.__qualname__}"


def _find_target(name: Any) -> Any:
    # Configs are untrusted: call only targets that are designed to be built from one.
    module, _, attribute = str(name).rpartition(".")
    if not module.startswith(TRUSTED):
        raise ValueError(f"the config refers to code outside this project: {name}")
    try:
        target = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the config refers to {name}, which does not exist: {error}") from error
    is_class = isinstance(target, type) and (
        issubclass(target, Configured) or dataclasses.is_dataclass(target)
    )
    if not is_class and not getattr(target, "is_configured", False):
        raise ValueError(f"the config refers to {name}, which cannot be built from a config")
    return target
