"""The report of a run: its parts, in the order in which they are read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resnet_exp.interfaces import ConfigError, Progress, RunError
from resnet_exp.report.html import write_html
from resnet_exp.report.page import page_of
from resnet_exp.report.parts.augmented import draw_augmentation
from resnet_exp.report.parts.classes import draw_class_accuracy, draw_confusion
from resnet_exp.report.parts.confused import draw_confused_pairs
from resnet_exp.report.parts.curves import draw_curves, draw_schedule
from resnet_exp.report.parts.effective_field import draw_effective_field
from resnet_exp.report.parts.examples import draw_examples
from resnet_exp.report.parts.gradcam import draw_gradcam
from resnet_exp.report.parts.lr_range import draw_range_test
from resnet_exp.report.parts.misclassified import draw_misclassified
from resnet_exp.report.parts.summary import draw_summary
from resnet_exp.report.section import Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import write_json

_log = logging.getLogger(__name__)
_TRAINING, _TRAINED = ("train",), ("train", "evaluate")


@dataclass(frozen=True)
class Part:
    """A section of the report: the key of `report` that switches it, and the tasks whose runs have it."""

    key: str
    title: str
    tasks: tuple[str, ...]
    draw: Callable[[Subject], Section]


PARTS = (
    Part("curves", "Accuracy and loss", _TRAINING, draw_curves),
    Part("schedule", "Learning rate and momentum", _TRAINING, draw_schedule),
    Part("range_test", "LR range test", ("train", "range_test"), draw_range_test),
    Part("classes", "Accuracy of each class", _TRAINED, draw_class_accuracy),
    Part("classes", "Confusion matrix", _TRAINED, draw_confusion),
    Part("classes", "Most confused pairs", _TRAINED, draw_confused_pairs),
    Part("misclassified", "Misclassified images", _TRAINED, draw_misclassified),
    Part("gradcam", "What the network looked at", _TRAINED, draw_gradcam),
    Part("examples", "The same images in every run", _TRAINED, draw_examples),
    Part("augmentation", "Augmentation", _TRAINING, draw_augmentation),
    Part("summary", "Layers and receptive fields", _TRAINED, draw_summary),
    Part("receptive_field", "Effective receptive field", _TRAINED, draw_effective_field),
)


def draw_report(subject: Subject, progress: Progress) -> tuple[Section, ...]:
    """The sections that the settings ask for, drawn into `report/`, with `report.json`, which lists them.

    One that cannot be drawn is a section with a gap: it costs neither the others nor the run.
    """
    parts = [part for part in PARTS if getattr(subject.settings, part.key) and subject.result["task"] in part.tasks]
    sections = []
    with progress("report", len(parts)) as advance:
        for part in parts:
            sections.append(_drawn(part, subject))
            advance()
    if sections:
        write_json(subject.folder / "report.json", {"sections": [_listed(section) for section in sections]})
    if subject.settings.html:
        write_html(page_of(subject, sections), subject.folder / "report.html")
    return tuple(sections)


def _drawn(part: Part, subject: Subject) -> Section:
    try:
        return part.draw(subject)
    except (Gap, ConfigError, RunError) as reason:
        return Section(part.title, gap=str(reason))
    except Exception as error:
        _log.debug("the report's part %r could not be drawn", part.title, exc_info=True)
        return Section(part.title, gap=f"{type(error).__name__}: {error}")


def _listed(section: Section) -> dict[str, Any]:
    files = [file for figure in section.figures for file in (figure.image, figure.data)]
    files += [table.data for table in section.tables]
    return {"title": section.title, "gap": section.gap, "files": [file.name for file in files if file]}
