"""The parts on classes: the accuracy of each class, and the confusion matrix."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from resnet_exp.report.drawing import BLUE, GREY, INK, VERMILLION, save
from resnet_exp.report.section import Figure, Section
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import short
from resnet_exp.run_dir.files import write_csv
from resnet_exp.training.evaluate import wilson_interval

_MAX_BARS = 60  # of more classes the best and the worst 30 are drawn
_MAX_COUNTED = 30  # classes of a matrix with a number in each cell
_NAME_BY_BAR, _NAME_BY_MATRIX = 1.75, 1.0  # inches of a class's name


def draw_class_accuracy(subject: Subject) -> Section:
    """The part with each class's accuracy and 95 % interval as a bar; the best first, classes without images last."""
    confusion = confusion_of(subject)
    correct, count = confusion.diagonal(), confusion.sum(1)
    names = subject.info.class_names
    tested = sorted(np.flatnonzero(count), key=lambda label: (-correct[label] / count[label], label))
    rows = []
    for label in (*tested, *np.flatnonzero(count == 0)):
        right, of = int(correct[label]), int(count[label])
        low, high = wilson_interval(right, of) if of else (None, None)
        accuracy = right / of if of else None
        rows.append((names[label], right, of, *(None if x is None else round(x, 6) for x in (accuracy, low, high))))
    # Accuracy second: trackers' pages compare tables of several runs by that column.
    columns = ("class", "accuracy", "correct", "count", "low", "high")
    records = ((name, accuracy, right, of, low, high) for name, right, of, accuracy, low, high in rows)
    data = write_csv(subject.folder / "class_accuracy.csv", columns, records)
    drawn = dict(zip(names, subject.drawn_names, strict=True))
    bars = _bars([(drawn[name], *others) for name, *others in rows], int(correct.sum()) / int(count.sum()))
    image = save(bars, subject.folder / "class_accuracy.png")
    shown = [row for row in rows if row[2]]
    alt = (
        f"Accuracy of {len(shown)} classes, from {shown[0][0]} {shown[0][3]:.1%} to {shown[-1][0]} {shown[-1][3]:.1%}."
    )
    left_out = (
        f" Only the best and the worst of {len(rows)} classes are drawn; the CSV file has all."
        if len(rows) > _MAX_BARS
        else ""
    )
    caption = f"Whiskers: 95 % Wilson interval for so many images. Dashed line: all images.{left_out}"
    return Section("Accuracy of each class", figures=(Figure(image, alt, caption, data, wide=True),))


def confusion_of(subject: Subject) -> np.ndarray:
    """Test images by true class (row) and predicted class (column), `[num_classes, num_classes], int64`."""
    # One count over all pairs, labels * classes + predicted: a loop over images would be slow.
    labels, predicted, classes = subject.predictions.labels, subject.predictions.predicted, subject.info.num_classes
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _bars(rows: list[tuple], overall: float) -> Canvas:
    half = _MAX_BARS // 2
    drawn = rows if len(rows) <= _MAX_BARS else [*rows[:half], *rows[-half:]]
    left_out = len(rows) - len(drawn)
    places = np.arange(len(drawn))
    if left_out:
        places[half:] += 1  # one line free, for the text below
    canvas = Canvas(figsize=(9.6, 1.4 + 0.3 * places[-1]))
    axes = canvas.subplots()
    accuracies = [row[3] or 0.0 for row in drawn]
    axes.barh(places, accuracies, height=0.66, color=BLUE, alpha=0.85)
    for place, (_, right, of, accuracy, low, high) in zip(places.tolist(), drawn, strict=True):
        if accuracy is None:
            axes.text(0.01, place, "no test image", va="center", fontsize=9, color=GREY, style="italic")
            continue
        axes.plot([low, high], [place, place], color=INK, lw=1.4, marker="|", ms=6)
        axes.text(1.02, place, f"{accuracy:.1%}   {right:,} of {of:,}", va="center", fontsize=9, color=INK)
    axes.axvline(overall, color=VERMILLION, lw=1.4, ls=(0, (4, 2)), zorder=0.5)
    axes.set_title(f"all images: {overall:.2%}", loc="left", fontsize=10, color=VERMILLION)
    axes.set_yticks(places, [short(row[0], _NAME_BY_BAR, 10) for row in drawn], fontsize=10, parse_math=False)
    if left_out:
        axes.text(0.01, half, f"{left_out:,} classes between", va="center", fontsize=9, color=GREY, style="italic")
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    canvas.subplots_adjust(
        right=0.8, left=0.2, top=1 - 0.42 / canvas.get_figheight(), bottom=0.38 / canvas.get_figheight()
    )
    return canvas


def draw_confusion(subject: Subject) -> Section:
    """The part with the confusion matrix: a row for each true class, errors coloured by their share of the row."""
    confusion, names = confusion_of(subject), subject.info.class_names
    rows = ((name, *map(int, row)) for name, row in zip(names, confusion, strict=True))
    data = write_csv(subject.folder / "confusion_matrix.csv", ("true class", *names), rows)
    image = save(_matrix(confusion, subject.drawn_names), subject.folder / "confusion_matrix.png")
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    worst, taken = np.unravel_index(errors.argmax(), errors.shape)
    largest = (
        f"the largest error is {names[worst]} taken for {names[taken]}, {errors.max():,} times"
        if errors.any()
        else "no errors"
    )
    alt = f"Confusion matrix of {len(names)} classes, {int(confusion.sum()):,} test images; {largest}."
    caption = (
        "Rows are true classes, columns predicted ones; a cell is the number of test images. Colour: the share of the "
        "row, on a square-root scale, so that rare errors are visible. The diagonal, in sand, is right."
    )
    return Section("Confusion matrix", figures=(Figure(image, alt, caption, data, wide=True),))


def _matrix(confusion: np.ndarray, names: tuple[str, ...]) -> Canvas:
    classes = len(names)
    counted = classes <= _MAX_COUNTED
    side = max(0.46 * classes, 3.0) if counted else 9.0
    width, height = side + 3.0, side + 1.45  # inches; the rest is for names and the colour bar
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes((1.8 / width, 0.15 / height, side / width, side / height))
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    # Without the diagonal, which is so large that all errors would have one pale colour beside it.
    errors = np.ma.masked_array(share, np.eye(classes, dtype=bool))
    shown = axes.imshow(errors, cmap="Blues", norm=PowerNorm(0.5, 0, max(float(errors.max() or 0), 1e-3)))
    axes.set_facecolor("#E8E0D0")  # visible on the diagonal
    ticks = range(0, classes, 1 if counted else -(-classes // 50))
    labels = [short(names[tick], _NAME_BY_MATRIX) for tick in ticks]
    counts = [f"{name}  {confusion[tick].sum():,}" for name, tick in zip(labels, ticks, strict=True)]
    axes.set_xticks(ticks, labels, rotation=90, fontsize=8.5, parse_math=False)
    axes.set_yticks(ticks, counts, fontsize=8.5, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel("true class, its test images", color=GREY)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted class", color=GREY)
    axes.spines[:].set_visible(False)
    if counted:
        _write_counts(axes, confusion, errors)
    bar = canvas.add_axes(((1.95 + side) / width, 0.15 / height, 0.16 / width, side / height))
    canvas.colorbar(shown, cax=bar, format=PercentFormatter(1.0, decimals=None))
    return canvas


def _write_counts(axes: Axes, confusion: np.ndarray, errors: np.ma.MaskedArray) -> None:
    dark = 0.4 * float(errors.max() or 1)  # above it the blue is too dark for dark text
    for true, row in enumerate(confusion):
        for predicted, count in enumerate(row):
            if count or true == predicted:
                right = true == predicted
                colour = "white" if not right and errors[true, predicted] > dark else INK
                axes.text(predicted, true, f"{count:,}", ha="center", va="center", fontsize=8.5, color=colour,
                          fontweight="bold" if right else "normal")  # fmt: skip
