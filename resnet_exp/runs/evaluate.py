"""`task=evaluate`: measures a trained network on a data set, as a run with a directory of its own."""

from __future__ import annotations

import time

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.data.bank import in_order
from resnet_exp.data.prepare import prepare_test
from resnet_exp.run_dir.model_file import (
    check_classes,
    check_images,
    check_network,
    network,
    read_model_file,
    with_model_of,
)
from resnet_exp.run_dir.signature import evaluation_signature
from resnet_exp.runs import messages, outputs
from resnet_exp.runs.console import Console
from resnet_exp.runs.open_run import open_run
from resnet_exp.runs.verified import verified_signature
from resnet_exp.training import result
from resnet_exp.training.device import start_runtime
from resnet_exp.training.evaluate import check_finite, evaluate
from resnet_exp.training.learner import infer
from resnet_exp.training.metrics import metrics_for


def evaluate_checkpoint(config: Config, command: str) -> float | None:
    """Measures a trained network on the test split of a data set, as a run; returns the accuracy.

    The images are normalised like those that the network was trained on, not with this data set's mean.

    Raises:
        ConfigError: a setting that cannot work, or a checkpoint of other classes or another model.
        RunError: the data cannot be read.
    """
    started = time.monotonic()
    console = Console()
    model_file = read_model_file(str(config.checkpoint))
    config = with_model_of(config, model_file)
    source, tracker = build.source(config), build.tracker(config)
    check_images(model_file, source.image_size)
    check_classes(model_file, source.size().num_classes)
    check_network(config, model_file)
    outputs.check_report(config.report, lambda: build.model(config, model_file.info))
    runtime = start_runtime(config.device, config.train.precision, config.train.deterministic)
    metrics = metrics_for(len(model_file.class_names), build.metrics(config), runtime.device)
    run_signature = verified_signature(
        config, source, lambda found: evaluation_signature(config, found, model_file.digest, runtime.precision), console
    )
    data = prepare_test(
        source, config.short_names["data"], model_file.normalisation, device=runtime.device, progress=console.progress
    )
    check_classes(model_file, data.info.num_classes, data.info.class_names)
    check_images(model_file, data.info.image_size, data.info.in_channels)
    with open_run(config, run_signature, runtime, metrics, tracker, command, console, started=started) as this:
        if this.is_finished:
            return this.objective
        messages.print_evaluation_plan(config, model_file.shown, runtime, this.directory, console)
        this.record.data(data.info, data.digests)
        this.record.mirror()
        model = network(config, model_file, runtime.device)
        logits, labels = infer(model, in_order(data.test, config.train.batch_size), runtime)
        check_finite(logits, "test")
        tested = evaluate(logits, labels, metrics)
        outputs.save_predictions(logits, labels, tested, data.info, this.record)
        outcome = result.of_evaluation(config, data.info, str(model_file.path), tested, model_file.note)
        this.finish(outcome, data, model)
        return this.objective
