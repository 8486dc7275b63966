"""`PARTS`, the sections of a report in reading order, and `draw_report`, which draws them."""

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
    """A section of the report, with the key of `report` that switches it on or off, and the tasks that have it."""

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
    """Draws the sections that the settings switch on into `report/`, writes report.json and report.html; returns them.

    A section that cannot be drawn becomes one with a gap, which has the reason: the others are drawn all the same.
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
    """Returns the section of a function that `report.extra` names, if the page can show it.

    Raises:
        Gap: it returned something else, or files that are not in the report's folder or not pictures.
    """
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
