"""The user's own plug-ins: folders with modules, `DIR/*.py`, and their options, `DIR/conf/<group>/*.yaml`."""

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
        ConfigError: one of them is not a folder.
    """
    names = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    folders = [Path(str(name)).expanduser().absolute() for name in names]
    for name, folder in zip(names, folders, strict=True):
        if name == "" or not folder.is_dir():
            raise ConfigError(f"plugins={name}: a folder is needed, with your modules and their conf/ in it")
    return folders


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
        modules = _modules(folder)
        for name in {module.partition(".")[0] for module in modules}:
            _check_name(name, folder)
        names += modules
    return tuple(names)


def _modules(folder: Path) -> list[str]:
    """The dotted names of the modules, `*.py`, of the packages, with an `__init__.py`, and of what is in these."""
    names = [path.stem for path in folder.glob("*.py") if path.stem.isidentifier() and not path.stem.startswith("__")]
    packages = [path.parent for path in folder.glob("*/__init__.py") if path.parent.name.isidentifier()]
    inside = [f"{package.name}.{name}" for package in packages for name in _modules(package)]
    return sorted([*names, *(package.name for package in packages), *inside])


def _check_name(name: str, folder: Path) -> None:
    spec = importlib.util.find_spec(name)  # what `import name` would take; builtins have no origin
    if spec is None or spec.origin is None or folder.resolve() not in Path(spec.origin).resolve().parents:
        origin = "Python itself" if spec is None or spec.origin is None else spec.origin
        raise ConfigError(f"plugins={folder}: {name} is also the name of a module elsewhere ({origin}); rename yours")
