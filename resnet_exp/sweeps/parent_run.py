"""The parent run of a sweep: a journal of its own, mirrored by the tracker, with what all jobs have reached so far."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_exp.config.config import flat
from resnet_exp.config.overrides import has_whole_values, is_within, key_of, parsed
from resnet_exp.interfaces import ConfigError, Mirror, RunError
from resnet_exp.run_dir.files import Damaged
from resnet_exp.run_dir.journal import Journal, last_status, metric_history, read
from resnet_exp.sweeps import best_config
from resnet_exp.sweeps.leaderboard import best_of, compare_best
from resnet_exp.sweeps.ledger import Job, Ledger
from resnet_exp.sweeps.report.page import draw_sweep

_log = logging.getLogger(__name__)
_LOOK = 0.5  # seconds between looks at the ledger
_WAIT = 5.0  # seconds at most, before the first job: trackers show its run beneath the parent's; at the end, else


class Parent:
    """Updates a sweep's leaderboard, figures and parent run while its jobs run, from a thread of its own."""

    def __init__(
        self, ledger: Ledger, mirror: Mirror, environment: dict[str, Any], direction: str, tracker: Any = None
    ) -> None:
        self._ledger, self._mirror, self._environment, self.direction = ledger, mirror, environment, direction
        self._tracker = tracker  # its settings, without secrets
        self._journal = _journal_of(ledger)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sweep-parent", daemon=True)
        self._seen: Any = None
        self._told: set[str] = set()
        self._children: set[Path] = set()  # in the journal already
        self.tracker_lines: Sequence[str] = ()  # how to look at the parent in its tracker, once the sweep has ended

    def start(self) -> None:
        """Starts the parent run, in the tracker too, and follows the ledger from here on."""
        facts = self._ledger.facts
        self._journal.status("RUNNING")
        self._journal.event("tracker", settings=self._tracker)  # by which it is told if this process is killed
        # Without the + of a key that is added, which not every tracker takes in names.
        swept = {f"sweep.{key_of(key)}": values for key, values in facts["space"].items()}
        self._journal.params(swept | self._fixed(facts))
        self._journal.tags({"command": facts["command"], "sweep": "parent"})
        self._journal.tags({"description": f"running\n\n`{facts['command']}`"})
        self._mirror.begin()
        self._mirror.wait_until_started(_WAIT)
        self._thread.start()

    def refresh(self) -> None:
        """Draws and records the state of the sweep, if it has changed."""
        seen = self._ledger.stamp()
        if seen == self._seen:
            return
        self._seen = seen
        if not self._ledger.facts:
            self._tell_once(f"{self._ledger.root} was moved or deleted; give it back, and the same command goes on")
            return
        jobs = self._ledger.jobs()
        for show in (self._draw, self._record):
            try:
                show(jobs)
            except (OSError, ConfigError, RunError) as error:  # neither a picture nor a full disk is worth a sweep
                self._tell_once(str(error))
            except Exception:  # the ledger has it all
                _log.exception("the state of the sweep could not be drawn or recorded")

    def _tell_once(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            _log.warning("the state of the sweep is not drawn or recorded: %s", reason)

    def _draw(self, jobs: list[Job]) -> None:
        facts = self._ledger.facts
        draw_sweep(
            self._ledger.root,
            jobs,
            title=self._ledger.root.name,
            command=facts["command"],
            direction=self.direction,
            parameters=list(facts["space"]) if any(job.values for job in jobs) else None,
            config=facts["config"],
            environment=self._environment,
            seconds=sum(job.seconds for job in jobs),
        )
        best_config.write_best(self._ledger.root, best_of(jobs, self.direction))

    def end(self, status: str, reason: str | None = None) -> None:
        """Records how the sweep ended, and waits for the tracker to have it."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._seen = None
        self.refresh()
        self._journal.status(status, reason)
        self.tracker_lines = self._mirror.end()
        self._journal.close()

    def killed(self, reason: str) -> None:
        """Records that the sweep was ended at once, unless it had ended."""
        if last_status(self._ledger.paths.journal) == "RUNNING":
            self._journal.status("KILLED", reason)

    def _follow(self) -> None:
        while not self._ending.wait(_LOOK):
            self.refresh()

    def _record(self, jobs: list[Job]) -> None:
        """Writes what is new to the journal."""
        self._record_children(jobs)
        known = metric_history(self._ledger.paths.journal)
        for step, value in sorted(self._curve(jobs).items()):
            if (step, value) not in {point[:2] for point in known.get("objective", ())}:
                self._journal.metrics({"objective": value}, step)
        if (first := best_of(jobs, self.direction)) is not None:
            assert first.objective is not None
            values = {"best_objective": first.objective} | (
                {"accuracy/test": first.test_accuracy} if first.test_accuracy else {}
            )
            self._journal.metrics(values, 0)
            note = compare_best(jobs, self.direction)
            is_fraction = self._ledger.facts["config"].get("task") == "train"
            text = f"best: {first.label}, {first.objective:.4f}" + (f"; {note.sentence(is_fraction)}" if note else "")
            self._journal.tags({"description": f"{text}\n\n`{self._ledger.facts['command']}`"})
        for path in sorted(self._ledger.root.glob("*.*")):
            if path.name in ("sweep.html", "leaderboard.csv", "sweep.json", "best.yaml"):
                self._journal.artifact(path)
        self._journal.table(self._ledger.root / "leaderboard.json")
        if (self._ledger.root / "report").is_dir():
            self._journal.artifact(self._ledger.root / "report", "report")
        self._mirror.sync()

    def _record_children(self, jobs: list[Job]) -> None:
        """Names the runs that no job is working on any more, for trackers to show beneath this one."""
        facts = self._ledger.facts
        if any(is_within(key_of(key), "tracker") for key in facts["space"]):
            return  # each job has a tracker of its own
        ended = {
            Path(run.root): job.run_label(run.seed, facts["seeds"])
            for job in jobs
            for run in job.runs
            if run.root and (job.status != "running" or run.status != "running")
        }
        if new := {path: label for path, label in ended.items() if path not in self._children}:
            self._journal.children(new)
            self._children |= new.keys()

    def _curve(self, jobs: list[Job]) -> dict[int, float]:
        """The objective by step, the best where several jobs have the same step.

        Trackers draw a metric over its step: with the value of a swept key as the step, their page shows the objective
        over that key. Steps are whole numbers, so it is the first key that has no others; else the job's number.
        """
        space = (parsed(f"{key}={values}") for key, values in self._ledger.facts["space"].items())
        key = next((override.get_key_element() for override in space if has_whole_values(override)), None)
        curve: dict[int, float] = {}
        better = max if self.direction == "maximize" else min
        for job in jobs:
            if job.objective is not None:
                step = job.number if key is None else int(job.point[key])
                curve[step] = better(curve.get(step, job.objective), job.objective)
        return curve

    def _fixed(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in flat(facts["config"]).items() if key not in facts["space"]}


def _journal_of(ledger: Ledger) -> Journal:
    """The parent run's journal; a damaged one is set aside, since the ledger has all that a new one needs."""
    path = ledger.paths.journal
    try:
        read(path)
    except Damaged as error:
        aside = path.replace(path.with_name(f"{path.name}.damaged"))
        _log.warning("the sweep's %s; it is made anew, and the old one is %s", error, aside.name)
    return Journal(path, ledger.root.name)
