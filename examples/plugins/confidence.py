"""A figure of your own for a run's report: the network's confidence where it is right, and where it is wrong."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from resnet_exp.report.drawing import BLUE, VERMILLION, save
from resnet_exp.report.section import Figure, Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import write_csv

_BINS = np.linspace(0, 1, 21)


def draw_confidence(subject: Subject) -> Section:
    """Draws two histograms of the confidence in the predicted class: of the right and of the wrong predictions.

    `report.extra=[confidence.draw_confidence]` adds it to a report. Files must be in the report's folder.

    Raises:
        Gap: the run has no predictions; the report then shows this message in place of the figure.
    """
    predictions = subject.predictions
    is_right = predictions.predicted == predictions.labels
    found = {"right": predictions.confidence[is_right], "wrong": predictions.confidence[~is_right]}
    counts = {name: np.histogram(confidences, _BINS)[0] for name, confidences in found.items()}
    rows = zip(_BINS[:-1].round(2).tolist(), counts["right"].tolist(), counts["wrong"].tolist(), strict=True)
    data = write_csv(subject.folder / "confidence.csv", ("confidence from", "right", "wrong"), rows)
    image = save(_histograms(counts), subject.folder / "confidence.png")
    means = [f"{name} {confidences.mean():.1%}" for name, confidences in found.items() if len(confidences)]
    alt = f"Histograms of the test images over the network's confidence; its means: {', '.join(means)}."
    caption = "On the right of the lower half are mistakes with a high confidence."
    return Section("Confidence", figures=(Figure(image, alt, caption, data),))


def _histograms(counts: dict[str, np.ndarray]) -> Canvas:
    canvas = Canvas(figsize=(7.2, 4.4), layout="constrained")
    for axes, (name, height), colour in zip(
        canvas.subplots(2, sharex=True), counts.items(), (BLUE, VERMILLION), strict=True
    ):
        axes.bar(_BINS[:-1], height, np.diff(_BINS), align="edge", color=colour, edgecolor="white")
        axes.set_title(f"{name}: {height.sum():,}", loc="left", fontsize=10, color=colour)
        axes.set_ylabel("test images")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability of the class taken")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return canvas
