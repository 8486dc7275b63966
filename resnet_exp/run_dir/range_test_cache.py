"""The cache of range tests: the first run that needs one makes it, and others read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.files import read_json, write_json
from resnet_exp.run_dir.foreign import check_file
from resnet_exp.run_dir.lock import locked


@dataclass(frozen=True)
class CacheEntry:
    """The file of one range test."""

    path: Path

    @property
    def value(self) -> Any | None:
        """What is stored; None where nothing is."""
        return read_json(self.path)

    def store(self, value: Any) -> None:
        """Stores the value for this process and all others."""
        write_json(self.path, value)


@contextmanager
def cached_range_test(output_dir: str, key: str, on_wait: Callable[[], None]) -> Iterator[CacheEntry]:
    """Yields the entry of this key, locked, so that no two processes make the same range test; waits for one that does.

    Args:
        output_dir: where runs go.
        key: of everything that determines the range test, `signature.range_test_signature`.
        on_wait: called before waiting.
    """
    entry = CacheEntry(Path(output_dir) / "range_tests" / f"{key}.json")
    check_file(entry.path, entry.path.with_suffix(".lock"))
    with locked(entry.path.with_suffix(".lock"), on_wait):
        yield entry
