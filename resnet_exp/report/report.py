"""The report of a run: its parts, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from resnet_exp.config import build
from resnet_exp.interfaces import Progress
from resnet_exp.report.html import MEDIA_TYPES, write_html
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
from resnet_exp.report.section import Gap, Section, drawn
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import write_json

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
    draws = [(part.title, partial(part.draw, subject)) for part in parts]
    draws += [(name, partial(_draw_extra, name, subject)) for name in subject.settings.extra]
    sections = []
    with progress("report", len(draws)) as advance:
        for title, draw in draws:
            sections.append(drawn(title, draw))
            advance()
    if sections:
        write_json(subject.folder / "report.json", {"sections": [_listed(section) for section in sections]})
    if subject.settings.html:
        write_html(page_of(subject, sections), subject.folder / "report.html")
    return tuple(sections)


def _draw_extra(name: str, subject: Subject) -> Section:
    """The section of a function that `report.extra` names, if the page can show it."""
    section = build.figure(name)(subject)
    if not isinstance(section, Section):
        raise Gap(f"it returned a {type(section).__name__}; a resnet_exp.report.section.Section is needed")
    for file in section.files:
        if file.parent != subject.folder or not file.is_file():
            raise Gap(f"{file} is no file in the report's folder, subject.folder")
    for image in (figure.image for figure in section.figures):
        if image.suffix not in MEDIA_TYPES:
            raise Gap(f"{image.name} is no picture that the page can show: {' or '.join(MEDIA_TYPES)} is needed")
    return section


def _listed(section: Section) -> dict[str, Any]:
    return {"title": section.title, "gap": section.gap, "files": [file.name for file in section.files]}
