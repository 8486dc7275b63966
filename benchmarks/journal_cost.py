"""The journal's share of a run, in thousandths: seconds within the calls that write it, of the seconds of the run.

    python benchmarks/journal_cost.py [runs] [override ...]

Each run is one of its own, in this process, with the overrides after `experiment=quickstart`; its tracker, which
reads the journal, is left out. The first run pays for imports and is not counted.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from resnet_exp import __main__ as entry
from resnet_exp.run_dir.journal import Journal

_WRITES = ("_append", "flush", "status", "__init__")  # those that a journal has, or will have

_spent = 0.0
_is_open = False  # `status` appends too


def _timed(name: str) -> None:
    whole = getattr(Journal, name)

    def timed(*arguments: Any, **keywords: Any) -> Any:
        global _spent, _is_open
        if _is_open:
            return whole(*arguments, **keywords)
        _is_open, start = True, time.perf_counter()
        try:
            return whole(*arguments, **keywords)
        finally:
            _is_open = False
            _spent += time.perf_counter() - start

    setattr(Journal, name, timed)


def _run(number: int, overrides: list[str]) -> float:
    """The journal's share of one run."""
    global _spent
    _spent, start = 0.0, time.perf_counter()
    sys.argv[1:] = ["experiment=quickstart", "tracker=none", f"output_dir=runs-{number}", *overrides]
    entry.main()
    return _spent / (time.perf_counter() - start)


def main(runs: int, overrides: list[str]) -> None:
    """Prints the share of each run, their mean and the greatest."""
    for name in filter(lambda name: hasattr(Journal, name), _WRITES):
        _timed(name)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _run(0, overrides)
        shares = [_run(number, overrides) for number in range(1, runs + 1)]
        lines = [len(path.read_text().splitlines()) for path in Path(folder).glob("runs-*/*/journal.jsonl")]
    print(f"\nof 1,000 s so many within the journal, which has {lines[0]} lines:", *(f"{1e3 * s:.2f}" for s in shares))
    print(f"mean {1e3 * statistics.mean(shares):.2f}, most {1e3 * max(shares):.2f} (0.5 % is 5)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:])
