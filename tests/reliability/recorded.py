"""results/reliability: what each row held at its full count, and the table of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .forked import Outcome
from .trials import Row

_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "results" / "reliability"
_HEAD = """# What was tried

Written by `make reliability`; rows alone: `make reliability ROWS="R1 P1"`. Seconds are those of all trials added up,
two at once on two CPU cores. A trial that was skipped, or not finished in its time, counts as not held.

| row | fault | must hold | trials run | held | seconds | commit |
|---|---|---|---|---|---|---|
"""


def record(row: Row, outcomes: list[Outcome]) -> None:
    """Writes what a row held at its full count."""
    _RESULTS.mkdir(parents=True, exist_ok=True)
    found = {
        "row": row.name,
        "trials": len(outcomes),
        "held": sum(outcome.held for outcome in outcomes),
        "seconds": round(sum(outcome.seconds for outcome in outcomes)),
        "commit": _commit(),
        "not held": {outcome.number: outcome.reason.splitlines()[0] for outcome in outcomes if not outcome.held},
    }
    (_RESULTS / f"{row.name}.json").write_text(json.dumps(found, indent=1) + "\n")


def write_table(rows: list[Row]) -> None:
    """Writes results/reliability.md from what was recorded of these rows."""
    _RESULTS.with_suffix(".md").write_text(_HEAD + "".join(_line(row) for row in rows))


def _line(row: Row) -> str:
    path = _RESULTS / f"{row.name}.json"
    cells = [row.name, row.fault, row.must_hold]
    if path.exists():
        found = json.loads(path.read_text())
        cells += [str(found[key]) for key in ("trials", "held", "seconds", "commit")]
    else:
        cells += [f"not run at its full count, {row.full}", "", "", ""]
    return f"| {' | '.join(cells)} |\n"


def _commit() -> str:
    """The commit that the trials ran on, marked if files other than results were changed since."""
    changed = _git("status", "--porcelain", "--", ".", ":!results")
    return _git("rev-parse", "--short", "HEAD") + (" and changes" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
