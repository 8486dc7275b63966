"""The user's own plug-ins: folders with modules, `DIR/*.py`, and their options, `DIR/conf/<group>/*.yaml`.

Naming a folder is the consent to run its code, and only the command line can give it: what a yaml says of `plugins` is
a fact about a run, on which nothing acts.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from resnet_exp.config.overrides import key_of, parsed
from resnet_exp.interfaces import ConfigError

_MOST_ENTRIES = 50_000  # of files and folders: a second of looking
_MOST_BYTES = 10 << 20  # of a module or a yaml


def folders_of(value: Any) -> list[Path]:
    """The folders that `plugins=` names: none for null, one, or several.

    Raises:
        ConfigError: one of them is not a folder, or none that could be one of plug-ins.
    """
    names, folders = _names(value), _paths(value)
    for name, folder in zip(names, folders, strict=True):
        if name == "" or not folder.is_dir():
            raise ConfigError(f"plugins={name}: a folder is needed, with your modules and their conf/ in it")
        _check_folder(folder)
    return folders


def consented_folders(value: Any, overrides: Sequence[str], also: Sequence[Path] = ()) -> list[Path]:
    """The folders of a composed `plugins`, each of which the command line names.

    Args:
        value: what the config says.
        overrides: those of the command line.
        also: folders that it has named besides.

    Raises:
        ConfigError: the command line does not name one, or it is no folder.
    """
    named = {*also, *(folder for text in overrides if key_of(text) == "plugins" for folder in _paths(_value(text)))}
    for name, folder in zip(_names(value), _paths(value), strict=True):
        if folder not in named:
            raise ConfigError(
                f"plugins={name}: a yaml names this folder, and its code is run only where the command line names it; "
                f"if you trust what is in it, add {_typed(value)}"
            )
    return folders_of(value)


def _value(text: str) -> Any:
    return parsed(text).value()


def _typed(value: Any) -> str:
    names = _names(value)
    return shlex.quote(f"plugins={names[0]}" if len(names) == 1 else f"plugins=[{','.join(map(str, names))}]")


def _names(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _paths(value: Any) -> list[Path]:
    return [Path(str(name)).expanduser().absolute() for name in _names(value)]


@cache  # once a process: it is asked for with every job
def _check_folder(folder: Path) -> None:
    """Raises ConfigError for a folder that holds too much to be one of plug-ins, or what cannot be read as a module."""
    for count, path in enumerate(_entries(folder)):
        if count == _MOST_ENTRIES:
            raise ConfigError(
                f"plugins={folder}: more than {_MOST_ENTRIES:,} files are in it; give your plug-ins one of their own"
            )
        if path.endswith((".py", ".yaml")):
            _check_file(folder, path)


def _entries(folder: Path) -> Iterator[str]:
    """Yields all that is below the folder; links to folders are not followed."""
    for where, folders, files in os.walk(folder):
        yield from (os.path.join(where, name) for name in (*folders, *files))


def _check_file(folder: Path, path: str) -> None:
    try:
        found = os.stat(path)
    except OSError:
        return  # a link to nothing: not found, as anywhere
    if stat.S_ISDIR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
        what = f"has {found.st_size:,} bytes" if stat.S_ISREG(found.st_mode) else "is no file"
        raise ConfigError(f"plugins={folder}: {os.path.relpath(path, folder)} {what}; take it out of the folder")


def conf_of(folder: Path, own: Path) -> Path | None:
    """The folder's `conf`, or None if it has none.

    Raises:
        ConfigError: a yaml in it has the name of one in `own`, the conf of resnet_exp; Hydra would silently take that.
    """
    conf = folder / "conf"
    for path in conf.rglob("*.yaml"):
        inside = path.relative_to(conf)
        if (own / inside).exists():
            raise ConfigError(f"plugins={folder}: conf/{inside} has the name of one of resnet_exp's own; rename it")
    return conf if conf.is_dir() else None


def open_folders(folders: Iterable[Path]) -> tuple[str, ...]:
    """Makes the folders' modules importable, and returns their dotted names: those that a config may name.

    Raises:
        ConfigError: a module has the name of one that is importable from elsewhere.
    """
    names: list[str] = []
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # last, so that it shadows no other module
        modules = _modules(folder, set())
        for name in {module.partition(".")[0] for module in modules}:
            _check_name(name, folder)
        names += modules
    return tuple(names)


def _modules(folder: Path, seen: set[Path]) -> list[str]:
    """The dotted names of the modules, `*.py`, of the packages, with an `__init__.py`, and of what is in these.

    Each folder counts once; `seen` are those that have been looked into, for links that lead in a circle.
    """
    seen.add(folder.resolve())
    names = [path.stem for path in folder.glob("*.py") if path.stem.isidentifier() and not path.stem.startswith("__")]
    found = sorted(path.parent for path in folder.glob("*/__init__.py") if path.parent.name.isidentifier())
    packages = [package for package in found if package.resolve() not in seen]
    inside = [f"{package.name}.{name}" for package in packages for name in _modules(package, seen)]
    return sorted([*names, *(package.name for package in packages), *inside])


def _check_name(name: str, folder: Path) -> None:
    spec = importlib.util.find_spec(name)  # what `import name` would take; builtins have no origin
    if spec is None or spec.origin is None or folder.resolve() not in Path(spec.origin).resolve().parents:
        origin = "Python itself" if spec is None or spec.origin is None else spec.origin
        raise ConfigError(f"plugins={folder}: {name} is also the name of a module elsewhere ({origin}); rename yours")
