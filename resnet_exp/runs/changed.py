"""What changed since a run began: other code is refused, another machine or version is told and marked in the result.

Other code may compute something else. Another machine or version of torch computes the same but for the last digits;
a result that was made partly on each is no longer one that can be made again, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resnet_exp.config.ranges import shown
from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.journal import read
from resnet_exp.run_dir.paths import RunPaths

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "scikit-learn")


def machine_of(environment: dict[str, Any]) -> dict[str, str]:
    """The facts of an environment that a run's last digits may depend on, besides the code."""
    facts = {name: environment.get(name) for name in ("device", "cpu", "cuda", "cudnn")}
    facts |= {name: environment["packages"].get(name) for name in _PACKAGES}
    return {name: str(value) for name, value in facts.items() if value is not None}


def machine_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The facts that differ, each as `torch 2.11 -> 2.14`."""
    return differences(machine_of(before), machine_of(now))


def code_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of the code differs: the package, or files of the plug-ins by name; none if all of it is the same."""
    if before["code_digest"] == now["code_digest"]:
        return []
    return differences(before.get("code", {}), now.get("code", {})) or [
        f"code {before['code_digest']} -> {now['code_digest']}"
    ]


def has_made_something(paths: RunPaths) -> bool:
    """Whether a run has anything that it would go on from."""
    return paths.range_test.exists() or any(paths.checkpoints.glob("*.pt"))


def check_same_code(paths: RunPaths, now: dict[str, Any]) -> None:
    """Returns if a run that is not finished may go on: with the code that made what it goes on from, if it has any.

    Raises:
        RunError: the code differs; the message says where, and the way on.
    """
    sat = [environment for environment, _ in sittings(read(paths.journal))]
    changed = code_changes(sat[-1], now) if sat and has_made_something(paths) else []
    if changed:
        commit = None if sat[-1]["git_dirty"] or sat[-1]["git_commit"] == now["git_commit"] else sat[-1]["git_commit"]
        raise RunError(
            f"{paths.root.name} was begun with other code, which may compute something else: {', '.join(changed)}. "
            f"Give that code back{f' (git checkout {commit[:12]})' if commit else ''} to go on, or take another "
            "name=... for a new run"
        )


def machines(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each part of a run was computed on: the epochs that ended there, and the facts; one part if none changed."""
    parts: list[dict[str, Any]] = []
    for environment, epochs in sittings(records):
        facts = machine_of(environment)
        if not parts or {**parts[-1], "epochs": None} != {"epochs": None, **facts}:
            parts.append({"epochs": [], **facts})
        parts[-1]["epochs"] += epochs
    return parts


def note_of_machines(parts: list[dict[str, Any]]) -> str | None:
    """What must be known of a result that was made on more than one machine or version; None if it was one."""
    if len(parts) < 2:
        return None
    facts = sorted({name for part in parts for name in part if part.get(name) != parts[0].get(name)} - {"epochs"})
    return f"trained in parts that differ in {', '.join(facts)} (result.json: sittings)"


def sittings(records: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], list[int]]]:
    """The environment of each process that worked on the run once its images were there, and the epochs it ended."""
    found: list[tuple[dict[str, Any], list[int]]] = []
    environment: dict[str, Any] | None = None
    for record in records:
        if record["kind"] == "event" and record["name"] == "environment":
            environment = record["fields"]
        elif record["kind"] == "dataset" and environment is not None:
            found.append((environment, []))
            environment = None
        elif record["kind"] == "rewind":
            for _, epochs in found:
                epochs[:] = [epoch for epoch in epochs if epoch <= record["step"]]
        elif record["kind"] == "metrics" and found and "loss/train" in record["values"]:
            found[-1][1].append(record["step"])
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The values that differ, each as `name before -> now`."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} {shown(before.get(name, 'not there'))} -> {shown(now.get(name, 'not there'))}" for name in names]
