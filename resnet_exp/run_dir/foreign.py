"""What is checked of a run's or a sweep's directory before anything in it is read or written: it may be anybody's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from resnet_exp.config.config import flat
from resnet_exp.interfaces import ConfigError, first_line
from resnet_exp.run_dir.contents import check_recorded
from resnet_exp.run_dir.paths import RunPaths

_READ_WHOLE = (".json", ".jsonl", ".csv", ".yaml")  # by endings; what is read in parts has bounds of its own
_MOST_BYTES = 256 << 20  # of such a file: a hundred thousand epochs
_MOST_ENTRIES = 100_000
_CONFIG_BYTES = 256 << 10
_CONFIG_VALUES = 20_000


def check_directory(root: Path) -> None:
    """Raises ConfigError where a file in the directory is a link, or none that can be read whole.

    Writing through a link would change a file elsewhere, a pipe would be waited for, and resnet_exp makes neither.
    """
    for count, entry in enumerate(_entries(root)):
        _check(Path(entry.path), entry.stat(follow_symlinks=False))
        if count == _MOST_ENTRIES:
            raise ConfigError(f"{root}: more than {_MOST_ENTRIES:,} files are in it, which no run writes")


def check_file(*paths: Path) -> None:
    """Raises ConfigError as `check_directory`, of these files alone; they need not exist."""
    for path in paths:
        if path.is_symlink() or path.exists():
            _check(path, path.lstat())


def _check(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise ConfigError(f"{path} is a link, to {os.readlink(path)}: nothing is read or written through it; remove it")
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise ConfigError(f"{path} is neither a file nor a folder; remove it")
    if stat.S_ISREG(found.st_mode) and path.suffix in _READ_WHOLE and found.st_size > _MOST_BYTES:
        raise ConfigError(f"{path} has {found.st_size:,} bytes, which no run writes; remove it")


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    """Yields all that is below the directory; nothing where there is none."""
    if not root.is_dir():
        return
    with os.scandir(root) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a run's `config.yaml`.

    Raises:
        ConfigError: it is no mapping of plain values, or much larger than a config, or has a reference in it.
        Damaged: it is not the one that the run recorded.
    """
    check_file(RunPaths(path.parent).journal, path)
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise ConfigError(f"{path}: more than {_CONFIG_BYTES:,} bytes, which no config has")
        check_recorded(path)
        loader = yaml.SafeLoader(path.read_text())
        node = loader.get_single_node()
        if _values(node, {}) > _CONFIG_VALUES:  # of which a few lines can make billions, by naming one another
            raise ConfigError(f"{path}: more than {_CONFIG_VALUES:,} values, which no config has")
        tree = loader.construct_document(node)
    except (OSError, UnicodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read ({first_line(error)})") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: this is no config of a run, which has a value for each key")
    for key, value in flat(tree).items():
        # All were resolved when it was recorded; now one could name a password of its reader.
        if "${" in f"{key}{value}":
            raise ConfigError(f"{path}: {key}={value}: the config of a run has no references ${{...}}")
    return tree


def _values(node: Any, counted: dict[int, int]) -> int:
    """How many values a node stands for, each that is named again as often as it is; too many for one in itself."""
    if id(node) not in counted:
        counted[id(node)] = _CONFIG_VALUES + 1  # until it is known: a node that holds itself has no end
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        counted[id(node)] = 1 + sum(_values(part, counted) for part in parts)
    return counted[id(node)]
