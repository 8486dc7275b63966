"""The part with misclassified test images, the most confident first."""

from __future__ import annotations

from resnet_exp.report.drawing import GREY, INK, VERMILLION, save
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import Tile, draw_tiles, in_rows
from resnet_exp.run_dir.files import write_csv

_COLUMNS = 8


def draw_misclassified(subject: Subject) -> Section:
    """The part with the most confident mistakes: true class, predicted class, confidence, index in the test set.

    Raises:
        Gap: no test image is misclassified.
    """
    predictions = subject.predictions
    wrong, total = predictions.wrong, len(predictions.labels)
    if not len(wrong):
        raise Gap(f"all {total:,} test images are classified right")
    mistakes = predictions.details(wrong, subject.info.class_names)
    of_true = predictions.probabilities[wrong, predictions.labels[wrong]]
    rows = (
        (rank, index, true, taken, f"{confidence:.6f}", f"{probability:.6f}")
        for rank, ((index, true, taken, confidence), probability) in enumerate(zip(mistakes, of_true, strict=True), 1)
    )
    columns = ("rank", "index", "true", "predicted", "confidence", "probability_of_true")
    data = write_csv(subject.folder / "misclassified.csv", columns, rows)
    shown = mistakes[: subject.settings.misclassified]
    drawn = predictions.details(wrong[: len(shown)], subject.drawn_names)
    tiles = [
        Tile(image, ((true, INK), (f"→ {taken}", VERMILLION), (f"{confidence:.1%}  #{index}", GREY)))
        for image, (index, true, taken, confidence) in zip(subject.test_images(wrong[: len(shown)]), drawn, strict=True)
    ]
    image = save(draw_tiles(in_rows(tiles, min(_COLUMNS, len(tiles)))), subject.folder / "misclassified.png")
    text = f"{len(wrong):,} of {total:,} test images are misclassified; the {len(shown)} most confident are shown."
    _, true, taken, confidence = shown[0]
    alt = f"{len(shown)} misclassified images; the most confident is {true} taken for {taken}, {confidence:.1%}."
    caption = "True class, → predicted class, the network's confidence in it, # the image's index in the test set."
    return Section("Misclassified images", text, (Figure(image, alt, caption, data, wide=True),))
