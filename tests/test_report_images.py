"""Classes, confusions, misclassified images, examples and augmentation: their data, on predictions made by hand."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.augmentation.crop_flip_mix import CropFlipMix
from resnet_exp.config.schema import ReportConfig
from resnet_exp.data import randomness
from resnet_exp.data.bank import ImageBank, Normalisation, shuffled
from resnet_exp.data.prepare import Data
from resnet_exp.interfaces import DatasetInfo, LabelledImages
from resnet_exp.report import fonts
from resnet_exp.report.drawing import DPI
from resnet_exp.report.parts import augmented, classes, confused, examples, misclassified
from resnet_exp.report.parts.augmented import draw_augmentation
from resnet_exp.report.parts.classes import draw_class_accuracy, draw_confusion
from resnet_exp.report.parts.confused import confused_pairs, draw_confused_pairs
from resnet_exp.report.parts.examples import draw_examples, example_indices
from resnet_exp.report.parts.misclassified import draw_misclassified
from resnet_exp.report.section import Figure, Gap
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import Tile, draw_tiles, enlarged, short
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.training.metrics import METRICS

NAMES = ("cat", "dog", "ship")
#         image   0  1  2  3  4  5  6  7
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])  # no ship among the test images
TAKEN = np.array([0, 1, 1, 2, 1, 1, 0, 1])
SURE = np.array([0.9, 0.6, 0.8, 0.8, 0.7, 0.5, 0.95, 0.99])
ALL = (draw_class_accuracy, draw_confusion, draw_confused_pairs, draw_misclassified, draw_examples, draw_augmentation)


@pytest.fixture
def subject_of(tmp_path, cpu):
    """Makes a finished run of these predictions, on noisy images."""

    def make(labels=LABELS, taken=TAKEN, sure=SURE, names=NAMES, *, size=16, channels=3, augmentation=None, **settings):
        paths = RunPaths(tmp_path)
        rest = (1 - sure) / max(len(names) - 1, 1)
        probabilities = np.repeat(rest[:, None], len(names), 1).astype(np.float32)
        probabilities[np.arange(len(labels)), taken] = sure
        np.savez(paths.predictions, labels=labels, probabilities=probabilities)
        pixels = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, channels), dtype=np.uint8)
        images = LabelledImages(pixels, labels)
        bank = ImageBank(images, Normalisation.of(pixels), torch.device("cpu"), getattr(augmentation, "padding", 0))
        all_on = {"curves": True, "schedule": True, "range_test": True, "classes": True, "misclassified": 40,
                  "gradcam": 8, "gradcam_method": "gradcam", "gradcam_layers": None, "examples": 24, "augmentation": 6,
                  "summary": True, "receptive_field": 8, "html": True, "extra": []}  # fmt: skip
        info = DatasetInfo("made", tuple(names), size, channels, len(labels), 0, len(labels))
        test = ImageBank(images, Normalisation.of(pixels), torch.device("cpu"))
        settings = ReportConfig(**{**all_on, **settings})
        data = Data(info, Normalisation.of(pixels), {}, test, bank, None)
        return Subject(paths, settings, {"epochs": 3}, data, METRICS, 0, cpu, None, augmentation)

    return make


def rows_of(path: Path | None) -> list[dict[str, str]]:
    assert path is not None
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def only(section) -> Figure:
    (figure,) = section.figures
    assert figure.image.exists() and figure.alt and figure.caption
    return figure


def test_classes_stand_by_accuracy_with_their_intervals_and_untested_ones_last(subject_of):
    rows = rows_of(only(draw_class_accuracy(subject_of())).data)
    assert [(row["class"], row["correct"], row["count"], row["accuracy"]) for row in rows] == [
        ("dog", "3", "4", "0.75"), ("cat", "1", "4", "0.25"), ("ship", "0", "0", ""),
    ]  # fmt: skip
    # Wilson's interval of 3 of 4, from scipy.stats.binomtest(3, 4).proportion_ci(method="wilson").
    assert (float(rows[0]["low"]), float(rows[0]["high"])) == pytest.approx((0.300642, 0.954413), abs=1e-6)
    assert rows[2]["low"] == rows[2]["high"] == ""


def test_the_matrix_has_true_classes_as_rows(subject_of):
    figure = only(draw_confusion(subject_of()))
    rows = rows_of(figure.data)
    assert [[int(row[name]) for name in NAMES] for row in rows] == [[1, 2, 1], [1, 3, 0], [0, 0, 0]]
    assert "cat taken for dog, 2 times" in figure.alt


def test_confused_pairs_stand_by_count_then_in_the_order_of_the_classes(subject_of):
    figure = only(draw_confused_pairs(subject_of()))
    assert [tuple(row.values()) for row in rows_of(figure.data)] == [
        ("cat", "dog", "2", "4", "0.5"), ("cat", "ship", "1", "4", "0.25"), ("dog", "cat", "1", "4", "0.25"),
    ]  # fmt: skip
    assert "cat taken for dog, 2 of 4" in figure.alt


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_every_mistake_is_in_one_pair(confusion):
    matrix = np.array(confusion)
    pairs = confused_pairs(matrix)
    assert sum(count for *_, count in pairs) == matrix.sum() - np.trace(matrix)
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)


def test_the_most_confident_mistakes_come_first_and_equal_ones_by_number(subject_of):
    section = draw_misclassified(subject_of(misclassified=2))
    rows = rows_of(only(section).data)
    assert [int(row["index"]) for row in rows] == [6, 2, 3, 1], "all of them, though two are drawn"
    assert [(row["true"], row["predicted"]) for row in rows[:2]] == [("dog", "cat"), ("cat", "dog")]
    assert float(rows[0]["confidence"]) == pytest.approx(0.95)
    assert float(rows[0]["probability_of_true"]) == pytest.approx(0.025)
    assert section.text == "4 of 8 test images are misclassified; the 2 most confident are shown."


@pytest.mark.parametrize("draw", [draw_misclassified, draw_confused_pairs])
def test_a_faultless_network_leaves_a_gap(draw, subject_of):
    with pytest.raises(Gap, match="all 8 test images are classified right"):
        draw(subject_of(taken=LABELS))


def test_examples_depend_on_labels_alone(subject_of):
    one, other = subject_of(examples=4), subject_of(taken=LABELS, examples=4)
    chosen = [[row["index"] for row in rows_of(only(draw_examples(run)).data)] for run in (one, other)]
    assert chosen[0] == chosen[1] == ["0", "1", "4", "5"]


@given(st.lists(st.integers(0, 11), min_size=1, max_size=60), st.integers(1, 40))
def test_examples_show_all_classes_alike(labels, count):
    indices = example_indices(np.array(labels), count)
    shown = np.array(labels)[indices]
    assert len(indices) == len(set(indices.tolist())) == min(count, len(labels))
    assert (np.diff(shown) >= 0).all()
    times = {label: int((shown == label).sum()) for label in set(labels)}
    for label, times_shown in times.items():  # none is shown twice less often than another, unless it has no more
        assert times_shown == labels.count(label) or times_shown >= max(times.values()) - 1


@pytest.mark.parametrize("augmentation", [CropFlipCutout(padding=2, cutout=4), CropFlipMix(padding=2, kind="cutmix")])
def test_the_augmentation_shows_the_very_views_of_the_training(augmentation, subject_of, monkeypatch):
    drawn = []
    monkeypatch.setattr(augmented, "draw_tiles", lambda rows, **rest: drawn.extend(rows) or draw_tiles(rows, **rest))
    run = subject_of(labels=np.arange(8) % 3, augmentation=augmentation)
    rows = rows_of(only(draw_augmentation(run)).data)
    for epoch in (1, 2, 3):
        trained = {}
        order = randomness.permutation(8, run.seed, randomness.ORDER, epoch).split(3)
        for indices, batch in zip(order, shuffled(run.train, augmentation, 3, run.seed, epoch), strict=True):
            trained |= zip(indices.tolist(), run.train.denormalised(batch.images), strict=True)
        for row, tiles in enumerate(drawn):
            index = int(rows[3 * row]["index"])
            assert (tiles[0].image == run.train.pixels(torch.tensor([index]))[0]).all()
            assert (tiles[epoch].image == trained[index]).all()


def test_images_that_are_not_mixed_say_so(subject_of):
    run = subject_of(labels=np.arange(8) % 3, augmentation=CropFlipCutout(padding=2, flip=True, cutout=4))
    figure = only(draw_augmentation(run))
    rows = rows_of(figure.data)
    assert {row["epoch"] for row in rows} == {"1", "2", "3"} and {row["mixed_with"] for row in rows} == {""}
    assert "in 3 epochs" in figure.alt


def test_mixed_images_name_what_was_mixed_in(subject_of):
    run = subject_of(labels=np.arange(8) % 3, augmentation=CropFlipMix(padding=2, kind="mixup"))
    rows = rows_of(only(draw_augmentation(run)).data)
    assert all(row["mixed_with"] in NAMES and 0 < float(row["share"]) < 1 for row in rows)


def test_no_augmentation_is_a_gap(subject_of):
    with pytest.raises(Gap, match="the augmentation changes nothing"):
        draw_augmentation(subject_of(augmentation=CropFlipCutout(padding=0, flip=False, cutout=0)))


@pytest.mark.parametrize(
    ("classes", "size", "channels"), [(2, 8, 1), (10, 32, 3), (26, 16, 3), (100, 16, 1), (3, 224, 3)], ids=str
)
def test_each_figure_is_drawn_at_any_number_of_classes_and_any_size(classes, size, channels, subject_of):
    rng = np.random.default_rng(1)
    count = 4 * classes
    labels, taken = np.arange(count) % classes, rng.integers(0, classes, count)
    names = [f"a class with a rather long name, number {number}" for number in range(classes)]
    augmentation = CropFlipCutout(padding=1, cutout=2)
    run = subject_of(labels, taken, rng.uniform(0.5, 1, count), names, size=size, channels=channels,
                     augmentation=augmentation)  # fmt: skip
    for draw in ALL:
        picture = imread(only(draw(run)).image)
        assert picture.shape[0] < 4000 and picture.shape[1] < 2600, "it fits a page"
        assert picture[..., :3].std() > 0.02


@pytest.fixture
def canvases(monkeypatch):
    """The figures as they are drawn, before they are pictures."""
    kept = []
    for module in (augmented, classes, confused, examples, misclassified):
        save = module.save
        monkeypatch.setattr(module, "save", lambda canvas, path, save=save: kept.append(canvas) or save(canvas, path))
    return kept


WIDE = ("W" * 40, "WELSH SPRINGER SPANIEL", "a class with a rather long name, number 1", "mmmmmmmmmmmmmmmm", "i")


@pytest.mark.parametrize("draw", ALL)
def test_no_words_lie_on_others_or_leave_the_picture(draw, subject_of, canvases):
    rng = np.random.default_rng(2)
    labels, taken = np.arange(40) % 5, rng.integers(0, 5, 40)
    draw(subject_of(labels, taken, rng.uniform(0.5, 1, 40), WIDE, augmentation=CropFlipMix(padding=2)))
    (canvas,) = canvases
    canvas.set_dpi(DPI)
    canvas.draw_without_rendering()
    words = [text for text in canvas.findobj(Text) if text.get_text().strip() and text.get_visible()]
    places = [(text.get_text(), text.get_window_extent()) for text in words]
    assert len(places) > 10
    for text, place in places:
        assert canvas.bbox.x0 <= place.x0 and place.x1 <= canvas.bbox.x1, text
        assert canvas.bbox.y0 <= place.y0 and place.y1 <= canvas.bbox.y1, text
    for (one, place), (other, beside) in combinations(places, 2):
        common = Bbox.intersection(place, beside)
        assert common is None or min(common.width, common.height) < 2, (one, other)


def test_names_that_are_formulas_or_no_text_are_drawn_as_they_stand(subject_of, canvases):
    names = ("$1$ bill", "$\\frac{1$", "price $5_{", "two\nlines", "caf\udce9")
    labels, taken, sure = np.arange(5), np.roll(np.arange(5), 1), np.full(5, 0.7)
    run = subject_of(labels, taken, sure, names, augmentation=CropFlipMix(padding=2))
    for draw in ALL:
        only(draw(run))
    for canvas in canvases:
        words = "|".join(text.get_text() for text in canvas.findobj(Text))
        assert all(name in words for name in ("$1$ bill", "$\\frac{1$", "price $5_{", "two lines", "caf?"))
    with (run.folder / "class_accuracy.csv").open(errors="surrogateescape", newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} == set(names)


def test_of_many_classes_the_best_and_the_worst_are_drawn_and_how_many_lie_between(subject_of, canvases):
    labels = np.repeat(np.arange(70), 70)
    taken = np.where(np.arange(70 * 70) % 70 <= labels, labels, (labels + 1) % 70)  # class n has n + 1 of 70 right
    figure = only(draw_class_accuracy(subject_of(labels, taken, np.full(len(labels), 0.5), list(map(str, range(70))),
                                                 size=1)))  # fmt: skip
    axes = canvases[0].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        *map(str, range(69, 39, -1)), *map(str, range(29, -1, -1)),
    ]  # fmt: skip
    (between,) = (text for text in axes.texts if text.get_text() == "10 classes between")
    assert between.get_position()[1] == 30 and 30 not in axes.get_yticks(), "in a line of its own"
    assert len(rows_of(figure.data)) == 70


@given(st.text("abcdefgWWm ,$…\n\udce9", max_size=60), st.floats(0.4, 2))
def test_a_name_is_cut_in_its_middle_as_far_as_it_must_be(text, inches):
    line = " ".join(text.encode(errors="replace").decode().splitlines())
    cut = short(text, inches)
    if cut != line:
        assert len(cut) < len(line)
        parts = [(cut[:at], cut[at + 1 :]) for at, letter in enumerate(cut) if letter == "…"]
        assert any(beginning and line.startswith(beginning) and line.endswith(end) for beginning, end in parts)


@pytest.mark.parametrize("size", [8, 32, 224])
def test_each_image_stands_in_its_place_in_the_picture(size):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, size, size, 1), dtype=np.uint8)
    canvas = draw_tiles([[Tile(image, (("words", "black"),)) for image in row] for row in images])
    (shown,) = canvas.axes[0].images
    whole, (left, right, bottom, top) = shown.get_array(), shown.get_extent()
    dots = whole.shape[1] / (right - left)
    assert dots == pytest.approx(whole.shape[0] / (bottom - top)), "pixels are square"
    found = [text.get_position() for text in canvas.axes[0].texts]
    assert len(found) == 6
    for (x, y), image in zip(found, images.reshape(6, size, size, 1), strict=True):
        big = enlarged(image)
        column, last = round((x - left) * dots), round((y - top) * dots)
        row = last - len(big) - round(0.07 * dots)  # words stand so far below their image
        places = [whole[r : r + len(big), column : column + len(big)] for r in (row - 1, row, row + 1)]
        assert any(place.shape == big.shape and (place == big).all() for place in places)


def test_names_from_right_to_left_turn_nothing_beside_them(subject_of):
    names = ("\u05e9\u05dc\u05d5\u05dd", "dog", "\u0642\u0637\u0629")
    shown = subject_of(names=names).drawn_names
    assert shown == ("\u2068\u05e9\u05dc\u05d5\u05dd\u2069", "dog", "\u2068\u0642\u0637\u0629\u2069")


def test_classes_whose_names_no_font_has_are_shown_with_their_numbers(subject_of, monkeypatch):
    monkeypatch.setattr(fonts, "_undrawable", {"\u732b"})
    subject = subject_of(names=("\u732b", "dog", "\u732b\u732b"))
    assert subject.drawn_names == ("0: \u732b", "dog", "2: \u732b\u732b")
    assert [short(name) for name in subject.drawn_names] == ["0: ?", "dog", "2: ??"]
    for draw in ALL[:-1]:
        written = (subject.folder / draw(subject).figures[0].data.name).read_text()
        assert "\u732b" in written and "0: " not in written, "the data have the names themselves"
