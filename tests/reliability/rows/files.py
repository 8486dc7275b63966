"""Rows R4 and R5: files that are read back and are damaged, and disks that are full."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnet_exp.run_dir import files
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.contents import faults_of
from resnet_exp.run_dir.journal import last_status, read
from resnet_exp.run_dir.lock import locked
from resnet_exp.runs import max_lr
from resnet_exp.training.lr_range import RangeTest
from resnet_exp.training.range_rules import Verdict

from ..full_disks import full_disk
from ..small_disk import separate
from ..trials import SESSION, TINY, Row, differences, start

FIND = (*TINY, "scheduler.max_lr=find")
SWEEP = ("--multirun", *TINY, "model.width=4,5", "hydra.sweep.dir=multirun")
STUDY = (
    *("--multirun", *TINY, "hydra/sweeper=study", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=multirun"),
    *("model.width=range(4,6)", "sweep.pruner=median"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of file that is read back: where it lies, and the command that reads it."""

    pattern: str  # in the project's folder
    command: tuple[str, ...]
    is_unfinished: bool = False  # the run was killed after its first checkpoint


# A journal that was cut looks like one that a kill tore; a command writes these two before it reads them.
UNREAD = ("journal.jsonl", "plan.json", "pruning.json")
RUN = "outputs/*-*/"
KINDS = (
    *(Kind(RUN + name, FIND) for name in (
        "journal.jsonl", "result.json", "config.yaml", "environment.json", "predictions.npz", "model.safetensors",
        "steps.csv", "confusion_matrix.json", "range_test.json",
    )),
    *(Kind(RUN + name, FIND, True) for name in (
        "journal.jsonl", "config.yaml", "environment.json", "range_test.json", "checkpoints/epoch-*.pt",
    )),
    Kind("outputs/range_tests/*.json", (*FIND, "rerun=true")),
    *(Kind(f"multirun/*/{name}", SWEEP) for name in ("jobs/*.json", "plan.json", "sweep.json", "journal.jsonl")),
    *(Kind(f"multirun/*/{name}", STUDY) for name in ("jobs/*.json", "plan.json", "space.json", "pruning.json")),
)  # fmt: skip
DAMAGES = ("empty", "cut", "one bit", "NUL", "of another run", "foreign file beside it")


def _damaged_file(number: int, folder: Path) -> None:
    """One file of a project is damaged; its command gives what it gave before, or names the file and a way on."""
    chance = random.Random(number)
    kind, damage = KINDS[number % len(KINDS)], DAMAGES[number // len(KINDS) % len(DAMAGES)]
    whole = _project(kind.command, kind.is_unfinished)
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    path = chance.choice(sorted(folder.glob(kind.pattern)))
    before = path.read_bytes()
    _damage(path, damage, kind, chance)
    damaged = path.read_bytes()
    command = start(*kind.command, before=_prepared)
    code = command.wait()
    what = f"{path.relative_to(folder)}, {damage}:\n{command.output}"
    assert "Traceback" not in command.output, what
    if code:
        code = _go_the_way_on(command.output, path, kind, what)
    assert code == 0, what
    assert damage == DAMAGES[-1] or path.name in UNREAD or damaged == before or path.stem in command.output, (
        f"not told: {what}"
    )
    _compare(folder, kind, what)


def _go_the_way_on(output: str, path: Path, kind: Kind, what: str) -> int:
    """Does what the refusal says; returns the exit code then."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, what
    assert path.name in errors[0], what
    assert "rerun=true" in errors[0], what
    again = start(*kind.command, "rerun=true", before=_prepared)
    code = again.wait()
    assert "Traceback" not in again.output, again.output
    return code


def _damage(path: Path, damage: str, kind: Kind, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content.clear()
    elif damage == "cut":
        del content[chance.randrange(1, len(content)) :]
    elif damage == "one bit":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif damage == "NUL":
        content = bytearray(len(content))
    elif damage == "of another run":
        other = _project((*kind.command, "seed=1"), kind.is_unfinished)
        content = bytearray(chance.choice(sorted(other.glob(kind.pattern))).read_bytes())
    else:
        path.with_name(f"foreign{path.suffix}").write_bytes(chance.randbytes(300))
        path.with_name(f"{path.stem}-foreign{path.suffix}").write_text('{"foreign": [1]}')
    path.write_bytes(content)


def _project(command: tuple[str, ...], is_unfinished: bool = False) -> Path:
    """The folder in which this command ran once, left alone or killed after its first checkpoint; read it only."""
    folder = Path(os.environ[SESSION]) / "projects" / str(abs(hash_of((command, is_unfinished))))
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.{os.getpid()}")
            partial.mkdir(parents=True)
            slow = ("train.checkpoint_interval=0",) if is_unfinished else ()
            first = start(*command, *slow, folder=partial, before=_killed_after_saving if is_unfinished else _prepared)
            assert first.wait() == (-signal.SIGKILL if is_unfinished else 0), first.output
            partial.rename(folder)
    return folder


def hash_of(value: object) -> int:
    """A number for a value, the same in each process."""
    return random.Random(repr(value)).getrandbits(64)


def _prepared() -> None:
    """Makes the range test one that takes no time: what becomes of its files is tried, not its steps."""
    verdict = Verdict("ok", "canned", 0.05, 0.0, (), {"minimum": 0.05}, 2.3)
    max_lr.range_test = lambda *_: RangeTest((), verdict, ())  # type: ignore[assignment]


def _killed_after_saving() -> None:
    _prepared()
    save: Callable[..., object] = Checkpoints.save

    def save_and_die(*arguments: object, **named: object) -> None:
        save(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = save_and_die  # type: ignore[assignment,method-assign]


def _compare(folder: Path, kind: Kind, what: str) -> None:
    """Raises unless the project has what the same one left alone has, and nothing damaged."""
    alone = _project(kind.command)
    for expected in sorted(path.parent for path in alone.glob(RUN + "journal.jsonl")):
        runs = sorted(folder.glob(f"outputs/{expected.name}*/"), key=lambda path: path.stat().st_mtime)
        best = [run for run in runs if (run / "result.json").exists() and _is_finished(run)]
        assert best, f"no finished run {expected.name}: {what}"
        found = differences(best[-1], expected)
        assert not found, f"{found[:3]}: {what}"
    if kind.command[0] == "--multirun":
        from resnet_exp.sweeps.ledger import Ledger

        (root,), (other,) = folder.glob("multirun/*/"), alone.glob("multirun/*/")
        objectives = [[(job.status, job.point, job.objective) for job in Ledger(one).jobs()] for one in (root, other)]
        assert objectives[0] == objectives[1], f"{objectives}: {what}"
        assert last_status(root / "journal.jsonl") == "FINISHED", what


def _is_finished(run: Path) -> bool:
    try:
        records = read(run / "journal.jsonl")
    except RuntimeError:
        return False
    return last_status(records) == "FINISHED" and not faults_of(run, records)


def _full_disk(number: int, folder: Path) -> None:
    """A disk that is full, where the kernel lets us have one; else a write that fails as on one."""
    if separate():
        full_disk(number, folder)
        return
    print(f"R5, full disk {number}: the kernel gives this user no mounts; the fault is patched into the command")
    _patched_full_disk(number, folder)


def _patched_full_disk(number: int, folder: Path) -> None:
    """A write finds no room: the path is named, nothing stays RUNNING, and the next command completes it."""
    names = (
        "range_tests",
        ".pt",
        "journal.jsonl",
        "predictions.npz",
        "model.safetensors",
        "result.json",
        "report.html",
    )
    name, chance = names[number % len(names)], random.Random(number)
    command = (*FIND[:-1], "scheduler.max_lr=find", "report=none", "report.html=true")
    after = chance.randrange(4) if name in (".pt", "journal.jsonl") else 0
    full = start(*command, before=lambda: _fill(name, after))
    code = full.wait()
    assert "Traceback" not in full.output, full.output
    assert name in full.output or code == 0, full.output
    (run,) = (path.parent for path in folder.glob(RUN + "journal.jsonl"))
    # None: not even the first line had room.
    assert last_status(run / "journal.jsonl") in (("FAILED", None) if code else ("FINISHED",)), full.output
    assert not list(folder.rglob("*.partial")), "a partial file was left"
    again = start(*command, before=_prepared)
    assert again.wait() == 0, again.output
    assert (run / "report" / "report.html").exists(), again.output
    assert not faults_of(run, read(run / "journal.jsonl"))
    found = differences(run, next(_project(command).glob(RUN)))
    assert not found, found


def _fill(name: str, after: int) -> None:
    """Lets every write into a file of this name fail from the one after so many on, as on a full disk."""
    _prepared()
    write, done = os.write, [0]

    def is_full(path: object) -> bool:
        done[0] += name in str(path)
        return name in str(path) and done[0] > after

    def failing(descriptor: int, content: bytes) -> int:
        if name == "journal.jsonl" and is_full(os.readlink(f"/proc/self/fd/{descriptor}")) and b"FAILED" not in content:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    def sync(path: Path) -> None:
        if path.suffix == ".partial" and is_full(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.write = failing  # type: ignore[assignment]
    files._sync = sync


def _killed_saving(number: int, folder: Path) -> None:
    """SIGKILL at some moment of saving or pruning; at every instant from the first save on there is a whole state."""
    chance = random.Random(number)
    command = (*TINY, "train.epochs=4", "train.checkpoint_interval=0")
    killed = start(*command)
    checkpoints = Checkpoints.__name__.lower()
    saves = chance.randrange(1, 4)
    killed.wait_for(lambda: len(list(folder.glob(f"{RUN}{checkpoints}/epoch-*.pt"))) >= min(saves, 2))
    time.sleep(chance.random() * 0.2)
    killed.send(signal.SIGKILL)
    killed.wait()
    (run,) = (path.parent for path in folder.glob(RUN + "journal.jsonl"))
    whole = [path for path in (run / checkpoints).glob("epoch-*.pt") if _is_whole(path)]
    assert whole, f"no whole checkpoint: {sorted((run / checkpoints).iterdir())}"
    again = start(*command)
    assert again.wait() == 0, again.output
    found = differences(run, next(_project(command).glob(RUN)))
    assert not found, found
    assert not list(folder.rglob("*.partial"))


def _is_whole(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] in path.name


def _save(number: int, folder: Path) -> None:
    (_full_disk if number % 6 == 5 else _killed_saving)(number // 6 if number % 6 == 5 else number, folder)


ROWS = (
    Row(
        "R5",
        "SIGKILL during save and prune (100); full disks of some KiB: cache, checkpoint, journal, store, report (20)",
        "a whole checkpoint at every instant; path named, nothing RUNNING, completed by the next command",
        120,
        12,
        _save,
    ),
    Row(
        "R4",
        "each kind of file that is read back: empty, cut, one bit, NUL, of another run, foreign file beside it",
        "the same result to the bit, or refused by name with a way on that works",
        300,
        12,
        _damaged_file,
    ),
)
