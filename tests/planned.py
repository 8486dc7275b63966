"""What tests of sweeps share: planners, grids and studies in this process, whose jobs end without being run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig
from PIL import Image

from resnet_exp.config.conf import CONF
from resnet_exp.sweeps.ledger import Job, Ledger, SeedRun
from resnet_exp.sweeps.planner import PlannedJob, Planner

BASE = ("experiment=quickstart", "scheduler.max_lr=0.05", "tracker=none")


@contextmanager
def planner(*arguments: str, conf: Path = CONF) -> Iterator[Planner]:
    """A planner of a sweep with these arguments."""
    with initialize_config_dir(str(conf)):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", [*BASE, *arguments], run_mode=RunMode.MULTIRUN)
        yield Planner(config, loader, [*BASE, *arguments])


def grid(*arguments: str, conf: Path = CONF) -> list[PlannedJob]:
    """The jobs of a grid."""
    from resnet_exp.sweeps.grid import GridSweeper

    with planner(*arguments, conf=conf) as plans:
        return plans.plan_all(GridSweeper().points(plans.space))


@contextmanager
def composed_sweep(*arguments: str) -> Iterator[tuple[DictConfig, ConfigLoader]]:
    """The config of a sweep with these arguments and no others, and what composes its jobs."""
    with initialize_config_dir(str(CONF)):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield (
            hydra.compose_config("config", list(arguments), RunMode.MULTIRUN, with_log_configuration=False),
            hydra.config_loader,
        )


def keys(*arguments: str, conf: Path = CONF) -> list[str]:
    return [one.job.key for one in grid(*arguments, conf=conf)]


def order_of_two(first: AbstractContextManager, second: Callable[[Callable[..., None]], AbstractContextManager]):
    """The order in which two get what only one can have: the second asks, in a thread, while the first has it.

    Args:
        first: a block that has it.
        second: makes another one, which calls what it is given before it waits.
    """
    waits, order = threading.Event(), []

    def ask() -> None:
        with second(lambda *_: waits.set()):
            order.append("second")

    with first:
        thread = threading.Thread(target=ask)
        thread.start()
        assert waits.wait(5)
        order.append("first")
    thread.join()
    return order


def picture_folder(root: Path, side: int) -> Path:
    """Two classes of four images, of so many pixels a side."""
    for number in range(16):
        path = root / ("train", "test")[number // 8] / ("a", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def with_runs(one: Job, project: Path, objective: float | None = None, **changes) -> Job:
    """The job, finished, with run directories in the project's outputs that hold a result."""
    found = one.runs or (SeedRun(0, "0-0", "finished", objective, objective),)
    runs = tuple(replace(run, root=str(project / "outputs" / f"{one.number}-{run.seed}")) for run in found)
    for run in runs:
        Path(run.root).mkdir(parents=True, exist_ok=True)
        for name in ("result.json", "config.yaml"):
            (Path(run.root) / name).write_text("{}")
    return replace(one, status="finished", runs=runs, **changes)


class FakeQueue:
    """Ends every trial at once, with an objective that its values give; `dies_after` so many it raises."""

    def __init__(self, ledger: Ledger, project: Path, dies_after: int = 99) -> None:
        self.ledger, self.project, self.left, self.ran = ledger, project, dies_after, []

    def run(self, planned: list[PlannedJob]) -> None:
        for one in planned:
            self.ledger.renew(one.job)
        for one in planned:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.ran.append(one.job.label)
            value = len(one.job.values["optimizer"]) - one.job.values["scheduler.peak_epoch"] / 10
            self.ledger.write(with_runs(one.job, self.project, value))

    def has_failed_enough(self) -> bool:
        return False


SPACE = ("optimizer=choice(sgd,adam,adamw)", "scheduler.peak_epoch=range(1,4)", "train.epochs=4")


def study(project: Path, *space: str, n_trials: int = 6, n_jobs: int = 1, dies_after: int = 99, conf: Path = CONF):
    """A study, run from where it is to its end; returns its trials and the labels of those that were run now."""
    from resnet_exp.sweeps import study as module
    from resnet_exp.sweeps.proposals import Proposals, distributions

    ledger = Ledger(project / "multirun" / "study")
    queue = FakeQueue(ledger, project, dies_after)
    with planner(*(space or SPACE), conf=conf) as plans:
        found = distributions(plans.space)
        module._refuse_another_space(ledger, found)
        ledger.plan(module._trials(plans, ledger))
        module.write_json(module._space_file(ledger), module._as_text(found), "space")
        sweeper = module.StudySweeper(n_trials, n_jobs, "tpe", 2, "maximize")
        proposals = Proposals(found, "tpe", 2, "maximize", 0)
        with suppress(KeyboardInterrupt):
            sweeper._run_batches(plans, proposals, ledger, queue)  # type: ignore[arg-type]
    return ledger.jobs(), queue.ran
