"""What each pruner would have done to the jobs of a sweep that ran without one, in many orders.

    python benchmarks/replay_pruners.py multirun/SWEEP [orders]

Of a job that a pruner stops, later jobs see the epochs up to there. Every pruner gets the same orders.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from resnet_exp.sweeps.leaderboard import best_of
from resnet_exp.sweeps.ledger import Job, Ledger
from resnet_exp.sweeps.pruning import is_poor, make_pruner


def replay(jobs: Sequence[Job], kind: str, latest: int, epochs: int) -> list[Job]:
    """The jobs as this pruner would have left them."""
    pruner, seen = make_pruner(kind, latest, epochs), list[Job]()
    for number, each in enumerate(jobs):
        job = replace(each, number=number)
        for epoch in range(1, epochs):
            part = {str(past): job.curve[str(past)] for past in range(1, epoch + 1)}
            if is_poor(replace(job, curve=part, status="running"), seen, pruner, "maximize"):
                job = replace(job, curve=part, status="pruned", runs=())
                break
        seen.append(job)
    return seen


def main(root: Path, orders: int) -> None:
    """Prints a line a pruner: the share of the epochs run, trials given up, and how much worse what is found is."""
    jobs = [job for job in Ledger(root).jobs() if job.status == "finished"]
    epochs = max(map(int, jobs[0].curve))
    latest = max(int(job.point["scheduler.peak_epoch"]) for job in jobs)
    best = best_of(jobs)
    assert best is not None and best.objective is not None
    print(f"{len(jobs)} points, {epochs} epochs, latest peak {latest}, {orders} orders")
    for kind, bound in (("none", latest), ("median", latest), ("hyperband", latest), ("median", 0), ("hyperband", 0)):
        shares, given_up, losses = [], [], []
        for seed in range(orders):
            left = replay(random.Random(seed).sample(jobs, len(jobs)), kind, bound, epochs)
            shares.append(sum(len(job.curve) for job in left) / (len(jobs) * epochs))
            given_up.append(sum(job.status == "pruned" for job in left))
            found = best_of(left)
            assert found is not None and found.objective is not None
            losses.append(best.objective - found.objective)
        print(
            f"{kind:>9}, {'after the latest peak' if bound else 'from the first epoch'}: "
            f"{statistics.mean(shares):.0%} of the epochs, {statistics.mean(given_up):.1f} given up, the best found in "
            f"{sum(loss == 0 for loss in losses)} of {orders} orders, {statistics.mean(losses):.2%} lost on average, "
            f"{max(losses):.2%} at worst"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
