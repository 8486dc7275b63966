"""Imports go one way, the heavy libraries stay where they are needed, and modules stay small and described."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

import resnet_exp
from resnet_exp.config.conf import CONF

PACKAGE = Path(resnet_exp.__file__).parent
PATHS = sorted(PACKAGE.rglob("*.py"))

# From low to high: what stands in a folder imports its own folder and those above it in this list, nothing else, and
# imports inside functions count too. CONTRIBUTING.md has the same order.
ORDER = (
    *("interfaces", "config", "data", "models", "schedulers", "augmentation", "optimizers", "run_dir", "training"),
    *("tracking", "report", "runs", "sweeps", "__main__"),
)
# Where each heavy or far-reaching library may be imported, at the top of a module or inside a function.
HOMES = {
    "hydra": ("__main__", "config", "sweeps"),
    "omegaconf": ("__main__", "config", "sweeps"),
    "hydra_plugins": ("sweeps",),
    "optuna": ("sweeps",),
    "mlflow": ("tracking",),
    "matplotlib": ("report", "sweeps.report"),
    "pytorch_grad_cam": ("report",),
    "torchinfo": ("report",),
    "jinja2": ("report",),
    "torchvision": ("data", "models"),
    "sklearn": ("data",),
    "scipy": ("augmentation", "sweeps"),
    "rich": ("runs",),
}
# Imported for a config error, `--help`, or a look at a run directory, where torch would take seconds.
WITHOUT_TORCH = ("__init__", "__main__", "interfaces", "config", "schedulers", "optimizers", "tracking")
# The folder of each group of plug-ins in conf/, but for data, whose folder holds more than plug-ins.
GROUP_OF = {
    "models": "model",
    "schedulers": "scheduler",
    "augmentation": "augmentation",
    "optimizers": "optimizer",
    "tracking": "tracker",
}
# Lines of a function: a longer one does more than one thing.
MOST_LINES = 60


def name_of(path: Path) -> str:
    """`data.bank` for resnet_exp/data/bank.py; a package's `__init__` is the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def part_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """The absolute names that a module imports; only what runs when it is imported itself, with `at_import`."""
    yield from _imports_in(tree_of(path), at_import)


def _imports_in(node: ast.AST, at_import: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            assert child.module is not None
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            if not at_import:
                yield from _imports_in(child, at_import)
        elif not (at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from _imports_in(child, at_import)


def own_imports(path: Path) -> set[str]:
    """The package's modules that a module imports."""
    modules = {name_of(other) for other in PATHS}
    found = set()
    for name in imports(path):
        inside = name.removeprefix("resnet_exp.")
        if inside != name:
            # `from resnet_exp.data.bank import Batch` names the module, `from resnet_exp.data import bank` its folder.
            found.add(inside if inside in modules else inside.rpartition(".")[0] or "__init__")
    return found - {"__init__"}


def in_one_of(module: str, homes: tuple[str, ...]) -> bool:
    return any(module == home or module.startswith(f"{home}.") for home in homes)


def each_module(test):
    return pytest.mark.parametrize("path", PATHS, ids=name_of)(test)


def test_every_folder_has_its_place_in_the_order() -> None:
    assert {part_of(name_of(path)) for path in PATHS} - {"__init__"} == set(ORDER)


@each_module
def test_a_module_imports_its_own_folder_and_those_above_it_only(path: Path) -> None:
    part = part_of(name_of(path))
    for imported in own_imports(path):
        above = ORDER[: ORDER.index(part) + 1] if part in ORDER else ()
        assert part_of(imported) in above, f"{name_of(path)} imports {imported}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """The order rules circles out between folders; this does within a folder too."""
    graph = {name_of(path): own_imports(path) for path in PATHS}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {module for module, needs in graph.items() if module not in done and needs <= done}
        assert ready, f"a circle among {sorted(set(graph) - done)}"
        done |= ready


@pytest.mark.parametrize("plugins", sorted(GROUP_OF))
def test_a_plugin_knows_no_other(plugins: str) -> None:
    """A folder's plug-ins share modules that are no plug-ins themselves, and know nothing of other groups."""
    targets = {yaml.safe_load(path.read_text())["_target_"] for path in (CONF / GROUP_OF[plugins]).glob("*.yaml")}
    modules = {target.rpartition(".")[0].removeprefix("resnet_exp.") for target in targets}
    groups = {*GROUP_OF} - {plugins}
    for path in (PACKAGE / plugins).glob("*.py"):
        imported = own_imports(path)
        assert not imported & modules, path.name
        assert not {part_of(name) for name in imported} & groups, path.name


@each_module
def test_a_library_is_imported_at_its_home_only(path: Path) -> None:
    module = name_of(path)
    for name in imports(path):
        homes = HOMES.get(name.partition(".")[0])
        assert homes is None or in_one_of(module, homes), f"{module} imports {name}"


@each_module
def test_what_must_be_light_does_not_import_torch(path: Path) -> None:
    if in_one_of(name_of(path), WITHOUT_TORCH):
        heavy = {"torch", "torchvision", "mlflow", "matplotlib", "sklearn"}
        assert not {name.partition(".")[0] for name in imports(path, at_import=True)} & heavy


@each_module
def test_mlflow_is_named_where_trackers_are_only(path: Path) -> None:
    """The journal holds neutral facts, and a run does not know who shows it; comments and messages count too."""
    assert part_of(name_of(path)) == "tracking" or "mlflow" not in path.read_text().lower()


@pytest.mark.parametrize(
    "module",
    [
        "__main__",
        "interfaces",
        "config.config",
        "run_dir.journal",
        "schedulers.onecycle",
        "optimizers.sgd",
        "tracking.mlflow",
        "tracking.csv_files",
    ],
)
def test_what_must_be_light_loads_no_torch_through_others(module: str) -> None:
    code = f"import sys, resnet_exp.{module}; print([m for m in ('torch', 'mlflow', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@each_module
def test_functions_are_small(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_LINES, f"{node.name}: {lines} lines"


@each_module
def test_no_module_looks_like_a_test(path: Path) -> None:
    assert not path.stem.startswith("test_") and not path.stem.endswith("_test"), "pytest would collect it"


@each_module
def test_all_that_is_public_says_what_it_is(path: Path) -> None:
    """Every module, and every public class, method and function in it, has a docstring.

    Properties, attributes with another name, may go without; so may what Python names itself, and `to_json`.
    """
    tree = tree_of(path)
    assert ast.get_docstring(tree), "the module"
    silent = []
    for owner in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        for node in owner.body:
            is_one = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if is_one and _is_public(node, owner) and not ast.get_docstring(node):
                silent.append(node.name)
    assert not silent


def _is_public(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, owner: ast.Module | ast.ClassDef) -> bool:
    if node.name.startswith("_") or node.name in ("to_json", "from_json"):
        return False
    if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
        return False
    decorators = {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}
    return "property" not in decorators and "cached_property" not in decorators
