"""Folders of the user's own plug-ins: `DIR/*.py`, and `DIR/conf/<group>/*.yaml` that name what is in them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_exp.interfaces import ConfigError


def folders_of(value: Any) -> list[Path]:
    """The folders that `plugins=` names: none for null, one, or several.

    Raises:
        ConfigError: one is no folder.
    """
    names = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    folders = [Path(str(name)).expanduser().absolute() for name in names]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"plugins={folder}: a folder is needed, with your modules and their conf/ in it")
    return folders


def conf_of(folder: Path, ours: Path) -> Path | None:
    """The folder's `conf`, or None where it has none.

    Raises:
        ConfigError: a yaml in it has the name of one of ours, which would be taken instead.
    """
    conf = folder / "conf"
    for path in conf.glob("*/*.yaml"):
        inside = path.relative_to(conf)
        if (ours / inside).exists():
            raise ConfigError(f"plugins={folder}: conf/{inside} has the name of one of resnet_exp's own; rename it")
    return conf if conf.is_dir() else None


def open_folders(folders: Iterable[Path]) -> tuple[str, ...]:
    """Makes the folders' modules importable, and returns their names: those that a config may name.

    Raises:
        ConfigError: a module has the name of one that is importable from elsewhere.
    """
    names: list[str] = []
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # behind everything else: it can shadow nothing
        names += [_checked(name, folder) for name in _modules(folder)]
    return tuple(names)


def is_module(name: str) -> bool:
    """Whether there is a module of this dotted name; what a module has imported is none of its own."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _modules(folder: Path) -> list[str]:
    files = [path.stem for path in folder.glob("*.py") if path.stem.isidentifier()]
    packages = [path.parent.name for path in folder.glob("*/__init__.py") if path.parent.name.isidentifier()]
    return sorted(files + packages)


def _checked(name: str, folder: Path) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or folder.resolve() not in Path(spec.origin).resolve().parents:
        origin = "Python itself" if spec is None or spec.origin is None else spec.origin
        raise ConfigError(f"plugins={folder}: {name} is also the name of a module elsewhere ({origin}); rename yours")
    return name
