"""The arguments of what a `_target_` names, read from its source without importing it.

A YAML file lists what differs from a constructor's defaults. Its other arguments can still be
overridden (`codec.lr=1e-4`), and a wrong name is refused before torch is imported.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from omegaconf import DictConfig


def keys_of(node: DictConfig) -> set[str]:
    """What can be set in a config: the keys that it lists and the arguments of its `_target_`."""
    return {*map(str, node), *argument_names(str(node.get("_target_", "")))}


@cache
def argument_names(target: str) -> tuple[str, ...]:
    """Names of the arguments of a class or function, in order.

    Args:
        target: dotted name, such as `diffcodec.perco.PerCo`; re-exports are followed.

    Returns:
        The names without `*args` and `**kwargs`; nothing if the source cannot be found.
    """
    module, _, name = target.rpartition(".")
    return tuple(_names(module, name)) if module else ()


def _names(module: str, name: str) -> Iterator[str]:
    tree = _source(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield from _arguments(node)
        elif isinstance(node, ast.ClassDef) and node.name == name:
            yield from _of_class(module, node)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            original = [a.name for a in node.names if (a.asname or a.name) == name]
            if original:
                yield from _names(node.module, original[0])


def _of_class(module: str, node: ast.ClassDef) -> Iterator[str]:
    constructor = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if constructor:
        yield from _arguments(constructor[0], skip=1)
        return
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield from _names(module, base.id)
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    if "dataclass" in decorators or "argument_group" in decorators:
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if "ClassVar" not in ast.unparse(field.annotation):
                yield field.target.id


def _arguments(function: ast.FunctionDef, *, skip: int = 0) -> Iterator[str]:
    arguments = function.args
    for argument in [*arguments.posonlyargs, *arguments.args][skip:] + arguments.kwonlyargs:
        yield argument.arg


@cache
def _source(module: str) -> ast.Module | None:
    top, *rest = module.split(".")
    spec = PathFinder.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*rest)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None
