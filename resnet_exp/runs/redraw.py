"""`task=report`: draws the report of a finished run again, from what the run recorded; nothing is trained."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from resnet_exp.config import build
from resnet_exp.config.config import Config, as_recorded
from resnet_exp.data.memory import SMALLER, memory_told
from resnet_exp.data.prepare import EvaluationData, prepare, prepare_test
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.directory import OnWait, open_finished_run
from resnet_exp.run_dir.foreign import read_config
from resnet_exp.run_dir.journal import read
from resnet_exp.run_dir.model_file import network, read_model_file, with_model_of
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs import messages, outputs
from resnet_exp.runs.console import Console
from resnet_exp.runs.record import Record, check_same_images, opened_record
from resnet_exp.tracking.mirror import open_mirror
from resnet_exp.training.device import Runtime, start_runtime
from resnet_exp.training.metrics import metrics_for


@memory_told("drawing the report", SMALLER)
def redraw(command: Config, on_wait: OnWait | None = None) -> None:
    """Draws the report of the run in `run_dir` again, with the report settings of this command.

    Args:
        command: its config.
        on_wait: called before waiting for another process that has the run open; without it that is an error.

    Raises:
        ConfigError: there is no finished run in `run_dir`, or its plug-ins are not found.
        RunError: its data cannot be read, or have changed since the run; or the report cannot be drawn.
    """
    console = Console()
    with open_finished_run(str(command.run_dir), on_wait) as directory:
        paths, result = directory.paths, directory.result
        assert result is not None
        recorded = read_config(paths.config)
        run = as_recorded(recorded, command)
        runtime = start_runtime(command.device, "fp32", run.train.deterministic)
        console.heading(f"{directory.name}: its report")
        subject = _subject(run, command, paths, result, runtime, console)
        outputs.check_report(command.report, lambda: subject.model)
        mirror = open_mirror(build.tracker(run), paths)
        with opened_record(paths, mirror) as record:
            record.mirror()
            sections = outputs.save_report(subject, record, console.progress)
            _complete(run, subject, record)
        messages.print_report(sections, paths, console)
        if not command.is_set("tracker") and (typed := _command_of_tracker(recorded.get("tracker"))):
            console.line(f"  its tracker was not contacted and has the report of before; {typed} updates it")


def _command_of_tracker(recorded: Any) -> str:
    """What to add to a command to mirror the run to its recorded tracker; "" where it has none."""
    settings = dict(recorded) if isinstance(recorded, dict) else {}
    name = str(settings.pop("_target_", settings.pop("kind", ""))).rpartition(".")[0].rpartition(".")[2]
    given = [f"tracker.{key}={value}" for key, value in settings.items() if value is not None]
    return "" if name in ("", "none") else shlex.join([f"tracker={name}", *given])


def _complete(run: Config, subject: Subject, record: Record) -> None:
    """Exports the network for the tracker if that was not done yet: jobs of a sweep leave it out."""
    is_there = any(entry["kind"] == "model" for entry in read(subject.paths.journal))
    if subject.model is not None and run.task == "train" and not is_there:
        record.export(subject.model, subject.info)


def _subject(
    run: Config, command: Config, paths: RunPaths, result: dict[str, Any], runtime: Runtime, console: Console
) -> Subject:
    """The run with its images and, if it has one, its trained network."""
    model, augmentation = None, None
    if run.task == "evaluate":
        model_file = read_model_file(result["checkpoint"])
        run = with_model_of(run, model_file)
        source, pixels = build.source(run), model_file.normalisation
        data: EvaluationData = prepare_test(
            source, result["data"], pixels, device=runtime.device, progress=console.progress
        )
        model = network(run, model_file, runtime.device)
    else:
        plugins = build.plugins(run)
        augmentation = plugins.augmentation
        data = prepare(
            plugins.source,
            result.get("data", run.short_names["data"]),
            run.split,
            seed=run.seed,
            padding=augmentation.padding,
            batch_size=run.train.batch_size,
            device=runtime.device,
            progress=console.progress,
        )
        if run.task == "train":
            model = network(run, read_model_file(str(paths.root)), runtime.device)
    check_same_images(paths, data.digests)
    metrics = metrics_for(data.info.num_classes, build.metrics(run), runtime.device)
    drawn = replace(run, report=command.report)
    return Subject.of(drawn, paths, result, data, metrics, runtime, model, augmentation)
