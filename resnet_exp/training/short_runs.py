"""`ShortRuns`: trainings of some steps on new networks, whose losses the range test reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import Advance, Schedule
from resnet_exp.run_dir.checkpoint import Checkpoint
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner, NonFinite

# The host reads the losses after this many steps: each reading waits for the device, and with fewer readings the
# training would go on long after a divergence.
_CHUNK = 10


@dataclass(frozen=True)
class ShortRun:
    """The LR and loss of each step up to where the run was lost, in nats per image; fp16 repeats a skipped LR."""

    applied: list[float]
    losses: list[float]
    is_finite: bool  # False: the step after the last loss was not


class ShortRuns:
    """Makes one short run after another; those that a stopped process had made before are not made again.

    Which run follows is determined by the ones before it, so that these and the steps of the one that was under way are
    all there is to save.
    """

    def __init__(
        self,
        make_learner: Callable[[Schedule], Learner],
        batches: Callable[[int, int], Iterator[Batch]],
        is_lost: Callable[[Sequence[float], int], bool],
        keeping: Keeping | None,
        saved: Checkpoint | None,
    ) -> None:
        """Nothing is run yet.

        Args:
            make_learner: makes a new network, the same each time, with its optimizer, for a schedule.
            batches: endless training batches of a repeat, counted from 0, from a step on.
            is_lost: whether a run with these losses ends here, of which those from a number on are new.
            keeping: saves what was done; None saves nothing.
            saved: what was saved last; None begins.

        Raises:
            RunError: what was saved has another content.
        """
        self._make_learner, self._batches, self._is_lost, self._keeping = make_learner, batches, is_lost, keeping
        self._before: list[ShortRun] = []  # not asked for yet
        self._half: dict[str, Any] | None = None
        if saved is not None:
            try:
                self._before = [ShortRun(**run) for run in saved.state["done"]]
                self._half = saved.state["half"]
            except (KeyError, TypeError, ValueError) as error:
                raise saved.unfit(error) from error
        self._done: list[ShortRun] = []

    def run(self, repeat: int, lrs: tuple[float, ...], advance: Advance) -> ShortRun:
        """The next run, at these LRs, on the batches of this repeat."""
        if self._before:
            run = self._before.pop(0)
            advance(len(lrs))
        else:
            run = self._run(repeat, lrs, advance)
        self._done.append(run)
        return run

    def _run(self, repeat: int, lrs: tuple[float, ...], advance: Advance) -> ShortRun:
        # Without cycled momenta: the optimizer's own momentum is used.
        learner = self._make_learner(Schedule(lrs=lrs, momenta=None, max_lr=max(lrs), min_lr=min(lrs)))
        applied, losses = self._go_on(learner)
        advance(len(losses))
        batches = self._batches(repeat, len(losses))
        while len(losses) < len(lrs):
            first = len(losses) - len(losses) % _CHUNK
            try:
                self._finish_chunk(learner, batches, min(first + _CHUNK, len(lrs)), applied, losses, advance)
            except NonFinite as fault:
                advance(len(lrs) - len(losses))
                return ShortRun(applied[: fault.step], losses[: fault.step], False)
            if self._is_lost(losses, first):
                advance(len(lrs) - len(losses))
                break
            self._keep(learner, applied, losses)
        return ShortRun(applied, losses, True)

    def _finish_chunk(
        self,
        learner: Learner,
        batches: Iterator[Batch],
        last: int,
        applied: list[float],
        losses: list[float],
        advance: Advance,
    ) -> None:
        """Adds the losses up to step `last`; keeps them and stops after any step where it is asked to.

        Raises:
            NonFinite: a step was not finite; the step named is the same wherever a process was stopped.
        """
        until = self._keeping.after_step if self._keeping else _never
        while len(losses) < last:
            done = len(losses)
            chunk = itertools.islice(batches, last - done)
            # Progress counts the losses below instead.
            steps = learner.train(chunk, done, lambda n=1: None, until)
            losses += steps.losses.tolist()
            applied += steps.lrs.tolist()
            advance(len(losses) - done)
            try:
                learner.check()
            except NonFinite:
                if len(losses) == last:
                    raise
                until = _never  # a few steps more, of which none changes anything
            else:
                if len(losses) < last:
                    self._keep(learner, applied, losses)

    def _go_on(self, learner: Learner) -> tuple[list[float], list[float]]:
        """The LRs and losses of the steps that were done before, after which the learner is then."""
        half, self._half = self._half, None
        if half is None:
            return [], []
        learner.load_state_dict(half["learner"])
        return half["applied"], half["losses"]

    def _keep(self, learner: Learner, applied: list[float], losses: list[float]) -> None:
        """Saves what was done, if it is time or the process is asked to stop."""
        if self._keeping is not None and self._keeping.after_step():
            half = {"learner": learner.state_dict(), "applied": applied, "losses": losses}
            done = [asdict(run) for run in self._done]
            self._keeping.save(len(done), len(losses), {"done": done, "half": half})


def _never() -> bool:
    return False
