"""The content of a run's page besides its sections: result, facts, command, config and environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from resnet_exp.interfaces import Metric
from resnet_exp.report.html import Page
from resnet_exp.report.section import Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import read_derived
from resnet_exp.training.result import IN_HEADLINE, counts, headline


def page_of(subject: Subject, sections: Sequence[Section]) -> Page:
    """The page of a run, read from its directory."""
    result, paths = subject.result, subject.paths
    environment = read_derived(paths.environment) or {}
    return Page(
        name=paths.root.name,
        headline=f"{headline(result)}; {result['seconds']:,.0f} s",
        facts=_facts(subject, environment),
        command=result["command"],
        sections=sections,
        config=yaml.safe_load(paths.config.read_text()),
        environment=environment,
    )


def _facts(subject: Subject, environment: dict[str, Any]) -> dict[str, str]:
    """The facts at the top of the page; the first line of each is shown large."""
    result = subject.result
    facts = _accuracies(result, subject.metrics) if "test" in result else _suggestion(result)
    if "max_lr" in result:
        facts["max_lr"] = f"{result['max_lr']:.4g}\n{result['max_lr_source']}"
    if subject.model is not None:
        parameters = sum(parameter.numel() for parameter in subject.model.parameters())
        facts["parameters"] = f"{parameters:,}\n{type(subject.model).__name__}"
    images = subject.info
    facts["images"] = f"{images.num_train + images.num_val + images.num_test:,}\n{_split(subject)}"
    facts["time"] = f"{result['seconds']:,.0f} s\n{environment.get('device')}, {environment.get('precision')}"
    return facts


def _accuracies(result: dict[str, Any], metrics: Sequence[Metric]) -> dict[str, str]:
    facts = {"test accuracy": f"{result['test']['accuracy']:.2%}\n{counts(result['test'])}"}
    if result["best_val_accuracy"] is not None:
        best, epoch = result["best_val_accuracy"], f"epoch {result['chosen_epoch']} of {result['epochs']}"
        facts["best validation"] = f"{best:.2%}\n{epoch}"
    if "ema" in result:
        facts["test accuracy, EMA"] = f"{result['ema']['test']['accuracy']:.2%}\n{counts(result['ema']['test'])}"
    for metric in metrics:
        if metric.name in result["test"] and metric.name not in IN_HEADLINE:
            direction = "higher" if metric.higher_is_better else "lower"
            value = metric.shown(result["test"][metric.name])
            facts[metric.title] = f"{value}\nof the test images; {direction} is better"
    return facts


def _suggestion(result: dict[str, Any]) -> dict[str, str]:
    return {"suggested LR": f"{result['suggestion']:.4g}\n{result['reason']}"}


def _split(subject: Subject) -> str:
    info = subject.info
    parts = {"to train on": info.num_train, "held out": info.num_val, "to test": info.num_test}
    split = ", ".join(f"{count:,} {purpose}" for purpose, count in parts.items() if count)
    return f"{info.name}: {split}; {info.num_classes} classes of {info.image_size}x{info.image_size} pixels"
