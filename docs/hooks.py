"""The site's pages that live elsewhere in the repository, and a check of the documented API.

README.md is the home page; CONTRIBUTING.md, CHANGELOG.md and the model cards beside the shipped
weights are pages of their own. Relative links are rewritten to where these pages are.
"""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks")

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<=\]\()([^)#:]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=LINK.sub(_from_the_root, text)))
    for card in sorted(ROOT.glob("codecs/diffcodec/*/weights/*/README.md")):
        text = card.read_text(encoding="utf-8")
        files.append(File.generated(config, f"models/{card.parent.name}.md", content=text))
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    files.append(File.generated(config, "CITATION.cff", content=citation))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Rewrite links to files of the repository's root."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return LINK.sub(_from_docs, markdown)


def on_pre_build(config: Any) -> None:
    """Warn, which is an error in a strict build, of documented objects without a docstring."""
    for page in sorted(Path(config.docs_dir, "api").glob("*.md")):
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M):
            for missing in _undocumented(name):
                log.warning("%s: no docstring of %s", page.name, missing)


def _from_the_root(match: re.Match[str]) -> str:
    target = match[1]
    return PAGES.get(target) or target.removeprefix("docs/")


def _from_docs(match: re.Match[str]) -> str:
    target = match[1]
    return PAGES.get(target.removeprefix("../"), target) if target.startswith("../") else target


def _undocumented(name: str) -> Iterator[str]:
    """The public functions, classes and methods of a module that have no docstring."""
    for source in ("codecs", "."):
        path = ROOT / source / name.replace(".", "/")
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                module = ast.parse(file.read_text(encoding="utf-8"))
                # A method that another class of the module documents is an implementation of it.
                known = {
                    method.name
                    for cls in _public(module, ast.ClassDef)
                    for method in _public(cls, ast.FunctionDef)
                    if ast.get_docstring(method)
                }
                yield from _without_docstring(module, name, known)


def _without_docstring(node: Any, name: str, known: set[str]) -> Iterator[str]:
    if not ast.get_docstring(node):
        yield name
    for child in _public(node, ast.ClassDef):
        yield from _without_docstring(child, f"{name}.{child.name}", known)
    for child in _public(node, ast.FunctionDef):
        if not ast.get_docstring(child) and child.name not in known:
            yield f"{name}.{child.name}"


def _public(node: Any, kind: type) -> list[Any]:
    return [n for n in node.body if isinstance(n, kind) and not n.name.startswith("_")]
