"""T1 to T4: the MLflow tracker through kills, outages, dead runs and processes that begin at once."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from resnet_exp.run_dir.journal import last_status, read

from ..faulty_servers import ANSWERS, closed_port, serving
from ..mlflow_store import artifacts, check_points, empty_store, rows, statuses
from ..trials import TINY, Command, Row, differences, reference, run_directory, start

_MLFLOW = (*TINY, "tracker=mlflow", "train.checkpoint_interval=0", "train.epochs=3")
_SECONDS = 5.0
_SLACK = 2.0  # a loaded machine, and the end of the interpreter


def _killed(number: int, folder: Path) -> None:
    """Kills at random moments, some of them while the mirror ends; then the same command finishes."""
    chance = random.Random(number)
    alone = reference(*_MLFLOW)
    empty_store(folder)
    for _ in range(chance.randint(1, 3)):
        command = start(*_MLFLOW)
        if chance.random() < 0.3:
            command.wait_for(lambda: _status(folder) == "FINISHED")
            time.sleep(chance.uniform(0, 0.6))
        else:
            time.sleep(chance.uniform(0.2, 6.0))
        command.send(signal.SIGKILL)
        command.wait()
    command = start(*_MLFLOW)
    assert command.wait() == 0, command.output
    _check_complete(folder, alone)


def _status(folder: Path) -> str | None:
    found = list(folder.glob("outputs/*/journal.jsonl"))
    return last_status(found[0]) if found else None


def _check_complete(folder: Path, alone: Path | None = None) -> None:
    run, store = run_directory(folder), folder / "mlflow.db"
    assert statuses(store) == {run.name: "FINISHED"}, statuses(store)
    ((run_id,),) = rows(store, "SELECT run_uuid FROM runs")
    check_points(store, run / "journal.jsonl", run_id)
    if alone is not None:
        mine, others = artifacts(folder), artifacts(alone.parents[1])
        assert mine.keys() == others.keys(), f"only in one: {sorted(mine.keys() ^ others.keys())}"
        different = [name for name in mine if mine[name] != others[name] and not name.endswith("journal.jsonl")]
        assert not different, f"other artifacts: {different}"
        assert not differences(run, alone), differences(run, alone)


# T2


def _outage(number: int, folder: Path) -> None:
    """A store that fails in one of many ways while a run lasts; then one that works gets all of it."""
    names = (*ANSWERS, "nothing listens", "dead PostgreSQL", "silent PostgreSQL", "locked sqlite", "no such host",
             "killed midway, restarted")  # fmt: skip
    name = names[number % len(names)]
    empty_store(folder)
    if name == "killed midway, restarted":
        _restarted(number, folder)
        return
    with _fault(name, folder) as uri:
        command = start(*_MLFLOW, f"tracker.uri={uri}")
        assert command.wait() == 0, command.output
        _check_end(command, folder, name)
    _finish(folder)


@contextmanager
def _fault(name: str, folder: Path) -> Iterator[str]:
    """A block in which the store at the URI that it gets has the fault."""
    postgres = "postgresql+psycopg://127.0.0.1"
    if name in ANSWERS:
        with serving(ANSWERS[name]) as port:
            yield f"http://127.0.0.1:{port}"
    elif name == "silent PostgreSQL":
        with serving(ANSWERS["silent"]) as port:
            yield f"{postgres}:{port}/x"
    elif name == "locked sqlite":
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield "sqlite:///mlflow.db"
    else:
        yield {
            "nothing listens": f"http://127.0.0.1:{closed_port()}",
            "dead PostgreSQL": f"{postgres}:{closed_port()}/x",
            "no such host": "http://store.invalid:5000",
        }[name]


def _check_end(command: Command, folder: Path, name: str, *, told: bool = True) -> None:
    """The end of a run, from its last status on, has waited no longer than it may, and said once what is wrong."""
    ended = [record for record in read(run_directory(folder) / "journal.jsonl") if record["kind"] == "status"][-1]
    assert ended["status"] == "FINISHED", ended
    seconds = time.time() - ended["time_ms"] / 1000
    assert seconds <= _SECONDS + _SLACK, f"{name}: the end took {seconds:.1f} s"
    warnings = command.output.count("does not keep up")
    assert not told or warnings == 1, f"{name}: told {warnings} times:\n{command.output}"
    assert "Traceback" not in command.output, command.output


def _finish(folder: Path, *more: str) -> None:
    command = start(*_MLFLOW, *more)
    assert command.wait() == 0, command.output
    assert "the same command again" not in command.output, command.output
    if not more:
        _check_complete(folder)


def _restarted(number: int, folder: Path) -> None:
    """MLflow's own server is killed while the run trains, and started again before or after the run ends."""
    port, during = closed_port(), random.Random(number).random() < 0.5
    uri = f"http://127.0.0.1:{port}"
    slow = ("train.epochs=12", "train.checkpoint_interval=0", f"tracker.uri={uri}")
    server = _server(port, folder)
    try:
        command = start(*_MLFLOW, *slow)
        command.wait_for(lambda: bool(rows(folder / "mlflow.db", "SELECT 1 FROM metrics")))
        _kill(server)
        if during:
            server = _server(port, folder)
        assert command.wait() == 0, command.output
        _check_end(command, folder, "restarted", told=False)
        if not during:
            server = _server(port, folder)
        _finish(folder, *slow)
        run = run_directory(folder)
        assert statuses(folder / "mlflow.db") == {run.name: "FINISHED"}
        ((run_id,),) = rows(folder / "mlflow.db", "SELECT run_uuid FROM runs")
        check_points(folder / "mlflow.db", run / "journal.jsonl", run_id)
    finally:
        _kill(server)


def _server(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """MLflow's own server, once it answers."""
    given = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/served",
             "--host", "127.0.0.1", "--port", str(port), "--workers", "1")  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), "server", *given],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + 100
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server
        except OSError:
            assert server.poll() is None and time.monotonic() < end, (folder / "server.log").read_text()[-500:]
            time.sleep(0.2)


def _kill(server: subprocess.Popen[bytes]) -> None:
    """Kills the server and its worker, which are a group of their own."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


# T3


def _dead_beside_living(number: int, folder: Path) -> None:
    """One run is killed and one goes on, beside it; the next command ends the first, and only that."""
    empty_store(folder)
    chance = random.Random(number)
    going = start(*_MLFLOW, "seed=1", "train.epochs=12") if number % 5 < 2 else None
    dead = start(*_MLFLOW, "seed=2", "train.epochs=40")
    dead.wait_for(lambda: bool(_named(folder, "seed", 2)) and "RUNNING" in statuses(folder / "mlflow.db").values())
    time.sleep(chance.uniform(0, 1.5))
    dead.send(signal.SIGKILL)
    dead.wait()
    if going is not None:
        going.wait_for(lambda: bool(_named(folder, "seed", 1)))
    command = start(*_MLFLOW, "seed=3")
    assert command.wait() == 0, command.output
    (killed,) = _named(folder, "seed", 2)
    assert last_status(killed / "journal.jsonl") == "KILLED"
    assert read(killed / "journal.jsonl")[-1]["reason"] == "its process was killed"
    shown = statuses(folder / "mlflow.db")
    assert shown[killed.name] == "KILLED", shown
    if going is not None:
        (alive,) = _named(folder, "seed", 1)
        assert "KILLED" not in {record.get("status") for record in read(alive / "journal.jsonl")}
        assert shown.get(alive.name) != "KILLED", shown
        assert going.wait() == 0, going.output
        assert last_status(alive / "journal.jsonl") == "FINISHED"


def _named(folder: Path, key: str, value: int) -> list[Path]:
    """The run directories, begun, of this setting."""
    line = f"\n{key}: {value}\n"
    return [path.parent for path in folder.glob("outputs/*/config.yaml") if line in path.read_text()]


# T4

_PROCESSES = 8


def _at_once(number: int, folder: Path) -> None:
    """Processes that create one store, and mirror a run each; nothing is trained."""
    processes = [_forked(lambda index=index: _mirror_one(folder, index)) for index in range(_PROCESSES)]  # type: ignore[misc]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in processes]
    assert codes == [0] * _PROCESSES, codes
    store = folder / "mlflow.db"
    assert statuses(store) == {f"run {index}": "FINISHED" for index in range(_PROCESSES)}, statuses(store)
    for run_id, name in rows(store, "SELECT run_uuid, name FROM runs"):
        check_points(store, folder / name / "journal.jsonl", run_id)
    assert [path.name for path in folder.iterdir() if "migrating" in path.name or "ready" in path.name] == []


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def _mirror_one(folder: Path, index: int) -> None:
    from resnet_exp.run_dir.journal import Journal
    from resnet_exp.run_dir.paths import RunPaths
    from resnet_exp.tracking.mlflow import MlflowMirror

    paths = RunPaths(folder / f"run {index}")
    with Journal(paths.journal) as journal:
        journal.status("RUNNING")
        mirror = MlflowMirror(paths, uri="sqlite:///mlflow.db", experiment="fresh", run_name=f"run {index}")
        mirror.begin()
        for step in range(20):
            journal.metrics({"loss": 1 / (step + 1), "accuracy/train": step / 20}, step)
            mirror.sync()
        journal.status("FINISHED")
        mirror.end()
        assert mirror.link


ROWS = (
    Row("T1", "SIGKILL with MLflow on sqlite, its replay and its end included",
        "each (metric, step) once, one run, artifacts equal", 100, 4, _killed),
    Row("T2", "the store dead, silent, dripping, 401, 503, killed midway, restarted, locked",
        "5 s at most beyond training, told once, nothing lost", 30, 3, _outage),
    Row("T3", "killed runs beside others that go on", "the next command ends the dead ones, and only those", 50, 3,
        _dead_beside_living),
    Row("T4", "8 processes at once on a fresh store", "nothing lost", 20, 2, _at_once),
)  # fmt: skip
