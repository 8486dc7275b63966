"""How a package is laid out: folders at the top, import depth, arrows, function lengths, files that name a metric.

Usage: python benchmarks/structure.py [PACKAGE_FOLDER] [--metric NAME]...

Give it the folder of another version, or of another project, to compare both by the same script. Imports inside
functions and under TYPE_CHECKING count too: they are knowledge of one part about another.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

OURS = Path(__file__).resolve().parent.parent / "resnet_exp"


def modules_of(package: Path) -> dict[str, Path]:
    """The package's modules by dotted name without the package's own: `data.bank`; a folder's `__init__` is `data`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(package: Path) -> dict[str, set[str]]:
    """Which of the package's modules each module imports; the folders' empty `__init__` do not count."""
    modules = modules_of(package)
    return {name: set(_imported(package.name, path, modules)) - {name, ""} for name, path in modules.items()}


def _imported(package: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            inside = name.removeprefix(f"{package}.")
            if inside != name:
                yield inside if inside in modules else inside.rpartition(".")[0]


def longest_chain(graph: dict[str, set[str]]) -> int:
    """The number of modules in the longest chain of imports.

    Raises:
        RecursionError: the imports run in a circle.
    """

    @cache
    def below(name: str) -> int:
        return 1 + max((below(other) for other in graph.get(name, ())), default=0)

    return max(map(below, graph))


def between_parts(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports between parts: the folders and the loose modules at the package's top."""
    parts: dict[str, set[str]] = {}
    for name, imported in graph.items():
        part = name.partition(".")[0]
        parts.setdefault(part, set()).update({other.partition(".")[0] for other in imported} - {part})
    return parts


def function_lengths(package: Path) -> list[int]:
    """Lines of every function and method, its decorators left out and nested functions counted too."""
    return [
        node.end_lineno - node.lineno + 1
        for path in modules_of(package).values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]


def files_that_name(package: Path, metric: str) -> list[str]:
    """The files, templates too, that have a metric's name as a word."""
    word = re.compile(rf"\b{re.escape(metric)}\b")
    files = [path for path in package.rglob("*") if path.suffix in (".py", ".j2")]
    return sorted(str(path.relative_to(package)) for path in files if word.search(path.read_text()))


def comment_shares(package: Path) -> tuple[float, float]:
    """The share of lines that are a comment, and of those that are one or end with one."""
    lines = [line for path in modules_of(package).values() for line in path.read_text().splitlines()]
    alone = sum(line.lstrip().startswith("#") for line in lines)
    behind = sum("  # " in line and not line.lstrip().startswith("#") for line in lines)
    return alone / len(lines), (alone + behind) / len(lines)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, default=OURS)
    parser.add_argument("--metric", action="append", default=[])
    given = parser.parse_args()
    package = given.package.resolve()
    graph = imports_of(package)
    parts = between_parts({name: found for name, found in graph.items() if name})
    folders = {name.partition(".")[0] for name in graph if "." in name}
    lengths = sorted(function_lengths(package))
    figures = {
        "folders at the top": len(folders),
        "loose modules at the top": len(parts) - len(folders),
        "modules": len(graph),
        "longest chain of parts": longest_chain(parts),
        "arrows between parts": sum(map(len, parts.values())),
        "longest chain of modules": longest_chain(graph),
        "function lines, median": statistics.median(lengths),
        "function lines, 90th percentile": lengths[int(0.9 * len(lengths))],
        "function lines, longest": lengths[-1],
        "lines that are a comment": f"{comment_shares(package)[0]:.1%}",
        "lines with a comment": f"{comment_shares(package)[1]:.1%}",
    }
    for metric in given.metric:
        files = files_that_name(package, metric)
        figures[f"files that name {metric}"] = f"{len(files)}: {', '.join(files)}"
    for name, value in figures.items():
        print(f"{name:<36} {value}")


if __name__ == "__main__":
    main()
