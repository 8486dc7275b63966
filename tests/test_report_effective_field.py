"""The effective receptive field: exact where it can be computed by hand, and measured on the network as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from resnet_exp.config.schema import ReportConfig
from resnet_exp.data.bank import Normalisation
from resnet_exp.data.prepare import EvaluationData
from resnet_exp.interfaces import DatasetInfo
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.report.network.layers import measurable_copy
from resnet_exp.report.parts.effective_field import EffectiveField, draw_effective_field, effective_fields
from resnet_exp.report.section import Gap
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.training.metrics import METRICS

# How many ways lead from a pixel to the unit through so many convolutions of three ones.
TRINOMIAL = {1: [1, 1, 1], 2: [1, 2, 3, 2, 1], 3: [1, 3, 6, 7, 6, 3, 1]}
PLAIN = Normalisation((0.0,) * 3, (255.0,) * 3)


def ones(channels=1, stride=1):
    conv = nn.Conv2d(channels, 1, 3, stride, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def field_of(model, images, layer=None):
    """That of a layer, or of the last one."""
    with measurable_copy(model) as copy:
        name = layer or list(dict(copy.named_modules()))[-1]
        return effective_fields(copy, {name: copy.get_submodule(name)}, [images])[name]


def square(values, middle, side):
    """The outer product of a row of values with itself, about a place of an empty map."""
    wanted = np.zeros((side, side))
    reach = slice(middle - len(values) // 2, middle + len(values) // 2 + 1)
    wanted[reach, reach] = np.outer(values, values)
    return wanted


@pytest.mark.parametrize("depth", TRINOMIAL)
@pytest.mark.parametrize("side", [8, 9])
def test_convolutions_of_ones_have_the_field_of_their_paths(depth, side):
    """About the middle pixel; of an even number, about the second of the two in the middle."""
    field = field_of(nn.Sequential(*(ones() for _ in range(depth))), torch.randn(2, 1, side, side))
    np.testing.assert_array_equal(field.strength, square(TRINOMIAL[depth], 4, side))
    assert (field.side, field.middle) == (side, 4)


def test_a_unit_of_a_smaller_map_looks_about_its_own_place():
    """Unit 2 of the 4 that a stride of 2 leaves of 8 pixels is over pixel 4."""
    field = field_of(nn.Sequential(ones(stride=2)), torch.randn(1, 1, 8, 8))
    np.testing.assert_array_equal(field.strength, square([1, 1, 1], 4, 8))
    assert field.side == 4


def test_the_size_is_that_of_a_square_as_large_as_the_pixels_above_the_threshold():
    """After three convolutions the corners, 1/49 of the middle, are below 4.55 %; their neighbours, 3/49, above."""
    sizes = [EffectiveField(square(TRINOMIAL[depth], 4, 9), 9).size for depth in TRINOMIAL]
    assert sizes == pytest.approx([3, 5, 45**0.5])


def test_channels_and_images_of_opposite_sign_do_not_cancel():
    conv = ones(channels=2)
    conv.weight.data[:, 1] *= -3
    field = field_of(nn.Sequential(conv), torch.randn(2, 2, 5, 5))
    np.testing.assert_array_equal(field.strength, square([2, 2, 2], 2, 5))


def test_a_larger_weight_makes_a_stronger_field_of_the_same_shape():
    torch.manual_seed(0)
    model, images = nn.Sequential(ones(), nn.ReLU(), ones()), torch.randn(3, 1, 9, 9)
    weak = field_of(model, images)
    model[0].weight.data *= 4
    strong = field_of(model, images)
    np.testing.assert_allclose(strong.strength, 4 * weak.strength)
    np.testing.assert_array_equal(strong.relative, weak.relative)


def test_it_is_the_mean_over_images_however_they_are_batched():
    torch.manual_seed(0)
    model, images = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4), torch.randn(6, 3, 16, 16)
    one_by_one = [field_of(model, image[None], "5").strength for image in images]
    with measurable_copy(model) as copy:
        together = effective_fields(copy, {"5": copy[5]}, images.split(4))["5"].strength
    np.testing.assert_allclose(together, np.mean(one_by_one, axis=0), rtol=1e-4)


def test_a_unit_that_nothing_moves_has_no_field():
    field = field_of(nn.Sequential(ones(), nn.ReLU()), -torch.ones(1, 1, 5, 5))
    assert not field.relative.any() and field.size == 0


def test_what_follows_in_place_changes_no_field():
    """The ReLU lets nothing through; the convolution before it still has its whole field."""
    model = nn.Sequential(ones(), nn.ReLU(inplace=True), ones())
    field = field_of(model, -torch.ones(1, 1, 5, 5), "0")
    np.testing.assert_array_equal(field.strength, square([1, 1, 1], 2, 5))


@pytest.fixture
def subject(tmp_path, bank, cpu):
    """Makes the run of an untrained network on 48 images."""

    def make(model, images=5):
        values = dict.fromkeys(ReportConfig.__dataclass_fields__, 4)
        settings = ReportConfig(
            **{**values, "receptive_field": images, "gradcam_method": "gradcam", "gradcam_layers": None}
        )
        info = DatasetInfo("patches", ("red", "green", "blue", "grey"), 16, 3, 48, 0, 48)
        data = EvaluationData(info, PLAIN, {}, bank)
        return Subject(RunPaths(tmp_path), settings, {}, data, METRICS, 0, cpu, model)

    return make


def custom_resnet():
    torch.manual_seed(0)
    return CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4)


def test_each_stage_is_drawn_with_its_effective_and_its_theoretical_size(subject):
    (figure,) = draw_effective_field(subject(custom_resnet(), images=20)).figures
    drawn = json.loads(figure.data.read_text())
    assert drawn["images"] == 20 and "20 test images" in figure.caption
    layers = drawn["layers"]
    assert [(layer["name"], layer["side"]) for layer in layers] == [("0", 16), ("2", 8), ("3", 4), ("5", 2)]
    assert [layer["theoretical_size"] for layer in layers] == ["3", "14", "20", "64"]
    sizes = [layer["effective_size"] for layer in layers]
    assert sizes == sorted(sizes) and sizes[0] <= 3 and sizes[1] <= 14
    assert [len(layer["thousandths"]) for layer in layers] == [16] * 4
    assert figure.image.exists() and f"{sizes[1]:.1f} at 2" in figure.alt


def test_the_images_are_spread_over_the_test_set_and_no_more_than_it_has(subject):
    few, all_of_them = (draw_effective_field(subject(custom_resnet(), count)).figures[0].caption for count in (1, 200))
    assert "1 test image," in few and "48 test images" in all_of_them


def test_drawn_again_all_bytes_are_the_same_and_the_network_is_untouched(subject):
    model = custom_resnet()
    state, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    with torch.inference_mode():
        (figure,) = draw_effective_field(subject(model)).figures
    before = [path.read_bytes() for path in (figure.image, figure.data)]
    draw_effective_field(subject(model))
    assert before == [path.read_bytes() for path in (figure.image, figure.data)]
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_network_without_maps_is_a_gap(subject):
    with pytest.raises(Gap, match="no layer of the network returns maps"):
        draw_effective_field(subject(nn.Sequential(nn.Flatten(), nn.Linear(768, 4))))
