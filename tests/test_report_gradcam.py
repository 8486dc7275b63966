"""Class activation maps: bright where the evidence is, for any network, and nothing of the network is changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_exp.config.schema import ReportConfig
from resnet_exp.data.bank import Normalisation
from resnet_exp.data.prepare import EvaluationData
from resnet_exp.interfaces import ConfigError, DatasetInfo
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.models.resnet import ResNet
from resnet_exp.report.heat_maps import as_rows, overlaid
from resnet_exp.report.network.class_maps import NAMES, class_maps
from resnet_exp.report.network.layers import check_layers, map_layers, measurable_copy, named_layers, spatial_layers
from resnet_exp.report.parts.gradcam import draw_gradcam
from resnet_exp.report.section import Gap
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.training.metrics import METRICS

CLASSES = ("red", "green", "blue", "grey")
RED, GREEN = 0, 1
PLAIN = Normalisation((0.0,) * 3, (255.0,) * 3)


class Colours(nn.Module):
    """How red an image is, and how green, on average."""

    def __init__(self):
        super().__init__()
        self.pick = nn.Conv2d(3, 2, 1, bias=False)
        self.pick.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None]
        self.weigh = nn.Linear(2, 2, bias=False)
        self.weigh.weight.data = torch.eye(2)

    def forward(self, images):
        return self.weigh(self.pick(images).mean((2, 3)))


class InPlace(nn.Module):
    """Conv, ReLU, Conv, a residual sum, and a linear layer; with what follows a convolution in place, or not."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.weigh = nn.ReLU(inplace=way == "module"), nn.Linear(8, 4)

    def forward(self, images):
        x = self.first(images)
        x = F.relu(x, inplace=True) if self.way == "function" else self.relu(x)
        y = self.second(x)
        if self.way == "sum":
            y += x
        else:
            y = y + x
        return self.weigh(y.mean((2, 3)))


@pytest.fixture
def patches():
    """Two images `[2, 3, 8, 8]`: black but for a red square at the top left, the first also for a green one."""
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, :4, :4] = 1
    images[0, 1, 6:, 6:] = 1
    return images


def maps_of(model, name, images, classes, method="gradcam"):
    with measurable_copy(model) as copy:
        return class_maps(copy, copy.get_submodule(name), images, classes, method)


@pytest.mark.parametrize("method", NAMES)
def test_every_method_finds_the_red_square(method, patches):
    maps = maps_of(Colours(), "pick", patches[1:], [RED], method)
    np.testing.assert_allclose(maps.values[0], patches[1, 0], atol=1e-6)


@pytest.mark.parametrize("method", [name for name in NAMES if name != "eigencam"])
def test_each_image_is_seen_for_its_own_class(method, patches):
    maps = maps_of(Colours(), "pick", patches[[0, 0]], [RED, GREEN], method)
    np.testing.assert_allclose(maps.values, patches[0, [RED, GREEN]], atol=1e-6)


def test_a_map_without_evidence_is_empty_and_one_with_the_same_everywhere_is_even(patches):
    everywhere = torch.ones(1, 3, 8, 8)
    maps = maps_of(Colours(), "pick", torch.cat([patches[1:], everywhere, patches[1:]]), [GREEN, GREEN, RED])
    assert maps.even.tolist() == [True, True, False]
    assert maps.largest.tolist() == pytest.approx([0, 1 / 64, 1 / 64])
    assert not maps.values[:2].any()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "xgradcam", "eigencam", "eigengradcam"])
@pytest.mark.parametrize("way", ["module", "function", "sum"])
def test_what_follows_in_place_changes_no_map(way, method):
    torch.manual_seed(0)
    plain, in_place, images = InPlace("plain"), InPlace(way), torch.randn(4, 3, 8, 8)
    in_place.load_state_dict(plain.state_dict())
    for layer in ("first", "second"):
        wanted, found = (maps_of(model, layer, images, range(4), method) for model in (plain, in_place))
        np.testing.assert_array_equal(wanted.values, found.values)


def test_maps_are_as_large_as_the_layer_and_go_from_0_to_1():
    torch.manual_seed(0)
    model = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4)
    for name, side in (("0", 16), ("2", 8), ("3", 4), ("5", 2)):
        maps = maps_of(model, name, torch.randn(3, 3, 16, 16), [0, 1, 2])
        assert maps.values.shape == (3, side, side) and maps.side == side
        assert set(maps.values.min((1, 2))) == {0} and set(maps.values.max((1, 2))) <= {0, 1}


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_network_is_left_as_it_was(caller):
    torch.manual_seed(0)
    model = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    model[0].requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    images, random = torch.randn(2, 3, 16, 16), torch.get_rng_state()
    wanted = maps_of(model, "5", images, [1, 2]).values
    with caller(), measurable_copy(model) as copy:
        (layer,) = spatial_layers(copy, images, 1).values()
        assert (class_maps(copy, layer, images, [1, 2], "gradcam").values == wanted).all()
    assert model.training and not model[0][0].weight.requires_grad and model[1][0].weight.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, before) for p, before in zip(model.parameters(), gradients, strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())


def found(model, size=32, most=6):
    with measurable_copy(model) as copy:
        return list(spatial_layers(copy, torch.zeros(2, 3, size, size), most))


def test_the_last_block_of_each_size_is_found():
    sizes = {"num_classes": 10, "in_channels": 3, "image_size": 32, "width": 2}
    assert found(CustomResNet(**sizes)) == ["0", "2", "3", "5"]
    assert found(ResNet(**sizes)) == ["stages.0", "stages.1", "stages.2", "stages.3"]
    assert found(CustomResNet(**sizes), most=2) == ["3", "5"]


def test_a_chain_of_bare_layers_is_taken_apart():
    """As in VGG: the last ReLU before each pooling; not what only hands on, nor what enlarges again."""
    conv = [module for i in range(3) for module in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2))]
    head = [nn.Dropout(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(147, 2)]
    assert found(nn.Sequential(nn.Sequential(*conv), *head)) == ["0.1", "0.4", "0.7", "0.8"]


def test_a_module_that_runs_twice_and_maps_with_channels_last_are_left_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.LayerNorm(3)

        def forward(self, images):
            x = self.relu(self.conv(self.relu(images)))
            return self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))

    assert found(Net()) == ["conv"]
    with measurable_copy(Net()) as copy, pytest.raises(Gap, match="relu is run 2 times in a pass"):
        map_layers(copy, torch.zeros(2, 3, 8, 8), ["relu"])


@pytest.mark.slow  # torchvision takes seconds to import
def test_torchvisions_networks_have_their_stages_found():
    from resnet_exp.models.torchvision import TorchvisionModel

    def of(name, size):
        return found(TorchvisionModel(num_classes=10, in_channels=3, image_size=size, name=name), size, 4)

    stages = [f"network.layer{i}" for i in range(1, 5)]
    assert of("resnet18", 64) == of("resnet50", 64) == stages
    assert of("resnet18", 32) == ["network.relu", *stages[:3]]  # the last stage's maps are single pixels
    assert of("mobilenet_v2", 64) == [f"network.features.{i}" for i in (3, 6, 13, 18)]
    assert of("densenet121", 64)[-2:] == ["network.features.denseblock3", "network.features.norm5"]


def test_a_network_without_maps_says_what_it_has():
    with pytest.raises(Gap, match=r"no layer .* returns maps .*; they return \[B, 192\], \[B, 5\]"):
        found(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 8)


def test_layers_that_are_named_are_taken_in_that_order_and_others_refused():
    with torch.device("meta"):
        model = ResNet(num_classes=10, in_channels=3, image_size=32, width=2)
    check_layers(model, ["stages.3", "stem"])
    assert list(named_layers(model, ["stages.3", "stem"])) == ["stages.3", "stem"]
    for name, hint in (
        ("layer9", "it has stem, stages, pool, classifier, ..."),
        ("stage.3", "did you mean stages.3"),
        ("shortcut", "did you mean stages.0.0.shortcut"),
    ):
        with pytest.raises(ConfigError, match=rf"^report.gradcam_layers=\[{name}\]: the network has no .*{hint}"):
            check_layers(model, [name])
    model = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=2)
    with measurable_copy(model) as copy, pytest.raises(Gap, match=r"8 returns no maps of the image.* but \[B, 4\]"):
        map_layers(copy, torch.zeros(2, 3, 16, 16), ["5", "8"])


def test_a_data_file_holds_a_map_in_thousandths_and_a_large_one_in_means():
    assert as_rows(np.array([[0, 0.5], [0.1234, 1]], np.float32)) == ["0 500", "123 1000"]
    assert as_rows(np.kron(np.eye(32), np.ones((4, 4))))[0].split() == ["1000", *["0"] * 31]


def test_an_overlay_is_brighter_where_the_map_is():
    """A colour's place in the map must be told by its lightness alone."""
    images = np.full((1, 16, 16, 3), 90, np.uint8)
    grey = overlaid(images, np.linspace(0, 1, 16, dtype=np.float32)[None, None].repeat(16, 1)).mean((0, 1, 3))
    assert (np.diff(grey) > 0).all()


@pytest.fixture
def subject(tmp_path, bank, cpu):
    """Makes the run of an untrained network on 48 images of four classes, of which every third is misclassified."""

    def make(model=None, wrong=range(0, 48, 3), **settings):
        torch.manual_seed(0)
        probabilities = np.full((48, 4), 0.1, np.float32)
        for i, label in enumerate(bank.labels.tolist()):
            probabilities[i, (label + (i in wrong)) % 4] = 0.5 + i / 100
        np.savez(RunPaths(tmp_path).predictions, labels=bank.labels.numpy(), probabilities=probabilities)
        plain = dict.fromkeys(ReportConfig.__dataclass_fields__, 4) | {
            "gradcam_method": "gradcam",
            "gradcam_layers": None,
        }
        model = model or CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4)
        info = DatasetInfo("patches", CLASSES, 16, 3, 48, 0, 48)
        data = EvaluationData(info, PLAIN, {}, bank)
        return Subject(
            RunPaths(tmp_path),
            ReportConfig(**{**plain, **settings}),
            {},
            data,
            METRICS,
            0,
            cpu,
            model,
        )

    return make


def read(section):
    return json.loads(section.figures[0].data.read_text())


def test_the_most_confident_mistakes_come_first_with_both_classes(subject):
    section = draw_gradcam(subject())
    (figure,) = section.figures
    drawn = read(section)
    assert [image["index"] for image in drawn["images"]] == [45, 42, 39, 36]
    assert [layer["side"] for layer in drawn["layers"]] == [16, 8, 4, 2]
    first = drawn["images"][0]
    assert (first["true"], first["predicted"], first["confidence"]) == ("green", "blue", 0.95)
    assert list(first["maps"]) == ["true", "predicted"] and first["maps"]["true"] != first["maps"]["predicted"]
    assert "test image 45, green taken for blue with 95.0%" in figure.alt and figure.image.exists()


def test_the_maps_do_not_depend_on_what_else_is_in_the_batch(subject):
    many, few = read(draw_gradcam(subject(gradcam=16))), read(draw_gradcam(subject(gradcam=1)))
    assert many["images"][0] == few["images"][0]


def test_many_images_are_several_pictures_from_one_data_file(subject):
    figures = draw_gradcam(subject(gradcam=200)).figures
    assert [figure.image.name for figure in figures] == ["gradcam.png", "gradcam_2.png"]
    assert len({figure.data for figure in figures}) == 1
    assert "test image 45," in figures[0].alt and "test image 45," not in figures[1].alt


def test_drawn_again_all_bytes_are_the_same(subject):
    run = subject()
    (figure,) = draw_gradcam(run).figures
    before = [path.read_bytes() for path in (figure.image, figure.data)]
    with torch.no_grad():
        draw_gradcam(run)
    assert before == [path.read_bytes() for path in (figure.image, figure.data)]


def test_eigencam_knows_no_class_and_says_so(subject):
    section = draw_gradcam(subject(gradcam_method="eigencam", gradcam_layers=["3"]))
    drawn = read(section)
    assert [list(image["maps"]) for image in drawn["images"]] == [["any"]] * 4
    assert [layer["name"] for layer in drawn["layers"]] == ["3"]
    assert "knows no class" in section.figures[0].caption


def test_where_there_is_nothing_to_draw_the_reason_is_said(subject):
    with pytest.raises(Gap, match="no test image is misclassified"):
        draw_gradcam(subject(wrong=()))
    with pytest.raises(Gap, match="no layer of the network returns maps"):
        draw_gradcam(subject(nn.Sequential(nn.Flatten(), nn.Linear(768, 4))))
    with pytest.raises(ConfigError, match="no module conv9"):
        draw_gradcam(subject(gradcam_layers=["conv9"]))


def test_odd_class_names_are_written_as_they_stand():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from resnet_exp.report.network.class_maps import ClassMaps
    from resnet_exp.report.parts.gradcam_figure import Group, gradcam_figure

    maps = ClassMaps(np.zeros((1, 4, 4), np.float32), np.zeros(1, np.float32))
    labels = [("test image 0", "is $\\frac{1$", "taken for caf\udce9", "with 99.0%")]
    figure = gradcam_figure(
        "Grad-CAM", np.zeros((1, 8, 8, 3), np.uint8), labels, [Group("true", "x", {"0": maps})], "s"
    )
    FigureCanvasAgg(figure).draw()
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"is $\\frac{1$", "taken for caf?"} <= words
