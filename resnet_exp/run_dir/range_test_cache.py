"""What runs remember for one another: range tests, each made once by whoever needs it first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.files import read_json, write_json
from resnet_exp.run_dir.lock import locked


@dataclass(frozen=True)
class CacheEntry:
    """A place on the disk for what is known of one key."""

    path: Path

    @property
    def value(self) -> Any | None:
        """What was kept, or None."""
        return read_json(self.path)

    def store(self, value: Any) -> None:
        """Keeps the value, for this process and all others."""
        write_json(self.path, value)


@contextmanager
def cached_range_test(output_dir: str, key: str, on_wait: Callable[[], None]) -> Iterator[CacheEntry]:
    """The range test of this key, while no other process makes the same; one that does is waited for.

    Args:
        output_dir: where runs go.
        key: of all that determines the range test, `signature.range_test_signature`.
        on_wait: called before waiting.
    """
    entry = CacheEntry(Path(output_dir) / "range_tests" / f"{key}.json")
    with locked(entry.path.with_suffix(".lock"), on_wait):
        yield entry
