"""The cache of range tests: the first run that needs one makes it, and others read it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.files import Unwritable, read_derived, write_json
from resnet_exp.run_dir.foreign import check_directory, check_file
from resnet_exp.run_dir.lock import locked

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheEntry:
    """The file of one range test."""

    path: Path

    @property
    def value(self) -> Any | None:
        """What is stored; None where nothing is, or where the file is damaged or of another range test: told."""
        return read_derived(self.path, self._of)

    def store(self, value: dict[str, Any]) -> None:
        """Stores the value for this process and all others; where there is no room, which is told, none has it."""
        try:
            write_json(self.path, value, self._of)
        except Unwritable as error:
            _log.warning("the LR range test is not remembered for other runs: %s", error)

    @property
    def _of(self) -> str:
        return f"LR range test {self.path.stem}"


@contextmanager
def cached_range_test(output_dir: str, key: str, on_wait: Callable[[], None]) -> Iterator[CacheEntry]:
    """Yields the entry of this key, locked, so that no two processes make the same range test; waits for one that does.

    Args:
        output_dir: where runs go.
        key: of everything that determines the range test, `signature.range_test_signature`.
        on_wait: called before waiting.
    """
    entry = CacheEntry(Path(output_dir) / "range_tests" / f"{key}.json")
    half = entry.path.with_suffix("")  # the folder of its checkpoints, until it is made
    check_file(entry.path, entry.path.with_suffix(".lock"), half)
    check_directory(half)
    with locked(entry.path.with_suffix(".lock"), on_wait):
        yield entry
