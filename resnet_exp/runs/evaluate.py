"""What a trained network is used for: measured on a data set (`task=evaluate`), asked about images (`task=predict`)."""

from __future__ import annotations

import time

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.data.bank import in_order
from resnet_exp.data.prepare import prepare_test
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.directory import open_run_directory
from resnet_exp.run_dir.files import read_json
from resnet_exp.run_dir.model_file import (
    check_classes,
    check_images,
    network,
    read_model_file,
    with_model_of,
)
from resnet_exp.run_dir.signature import evaluation_signature
from resnet_exp.runs import messages, outputs
from resnet_exp.runs.console import Console
from resnet_exp.runs.environment import environment_of
from resnet_exp.runs.record import recorded
from resnet_exp.tracking.mirror import open_mirror
from resnet_exp.training import result
from resnet_exp.training.device import start_runtime
from resnet_exp.training.evaluate import evaluate
from resnet_exp.training.learner import infer


def evaluate_checkpoint(config: Config, command: str) -> float:
    """Measures a trained network on the test split of a data set, as a run of its own; returns the accuracy.

    The images are normalised as the network's training images were.

    Raises:
        ConfigError: a setting that cannot work, or a checkpoint of other classes or another model.
        RunError: the data cannot be read.
    """
    start = time.time()
    console = Console()
    model_file = read_model_file(str(config.checkpoint))
    config = with_model_of(config, model_file)
    source = build.source(config)
    check_images(model_file, source.image_size)
    check_classes(model_file, source.size().num_classes)
    outputs.check_report(config.report, lambda: build.model(config, model_file.info))
    runtime = start_runtime(config.device, config.train.precision, config.train.deterministic)
    environment = environment_of(runtime, config.plugin_folders)
    signature = evaluation_signature(config, source.identity(), model_file.digest, runtime.precision)
    data = prepare_test(
        source, config.short_names["data"], model_file.normalisation, device=runtime.device, progress=console.progress
    )
    check_classes(model_file, data.info.num_classes, data.info.class_names)
    check_images(model_file, data.info.image_size, data.info.in_channels)
    with open_run_directory(config.output_dir, config.title, signature, config.rerun) as directory:
        mirror = open_mirror(build.tracker(config), directory.paths)
        messages.print_changed(read_json(directory.paths.environment) or environment, environment, console)
        if directory.result is not None:
            return messages.print_finished(directory, mirror, console) or 0.0
        messages.print_evaluation_plan(config, str(model_file.path), runtime, directory, console)
        with recorded(directory.paths, mirror) as record:
            record.begin(config, environment, command, directory.is_new)
            record.data(data.info, {"test": data.digest})
            record.mirror()
            model = network(config, model_file, runtime.device)
            logits, labels = infer(model, in_order(data.bank, config.train.batch_size), runtime)
            tested = evaluate(logits, labels)
            outputs.save_predictions(logits, labels, tested, data.info, record)
            outcome = result.of_evaluation(config, data.info, str(model_file.path), tested)
            outcome = record.finish(outcome, time.time() - start)
            subject = Subject(
                paths=directory.paths,
                settings=config.report,
                result=outcome,
                info=data.info,
                seed=config.seed,
                runtime=runtime,
                model=model,
                test=data.bank,
            )
            sections = outputs.save_report(subject, record, console.progress)
        messages.print_result(outcome, directory, record.tracker_lines, console)
        messages.print_report(sections, directory.paths, console)
        return tested.accuracy
