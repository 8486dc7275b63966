"""How far each layer sees, held against what the gradient says; and the table of layers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from resnet_exp.config.model_check import _registered_on_meta
from resnet_exp.interfaces import DatasetInfo
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.models.resnet import ResNet
from resnet_exp.models.torchvision import TorchvisionModel
from resnet_exp.report.network.receptive_field import receptive_fields
from resnet_exp.report.parts.summary import draw_summary, summarised
from resnet_exp.run_dir.paths import RunPaths


def fields_of(model: nn.Module, size: int, channels: int = 3):
    return receptive_fields(model, torch.zeros(1, channels, size, size))


def test_the_custom_resnet_sees_what_its_geometry_says():
    """Figures worked out by hand: along the network, through both sums."""
    model = CustomResNet(num_classes=10, in_channels=3, image_size=32, width=2)
    fields = fields_of(model, 32)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d)]
    assert [fields[name][0].size for name in layers] == [
        "3", "5", "6", "10", "14", "18", "20", "28", "32", "48", "64", "88",
    ]  # fmt: skip
    assert [fields[name][0].stride for name in ("0", "1", "2", "3", "4", "5", "6")] == [
        "1", "2", "2", "4", "8", "8", "32",
    ]  # fmt: skip


class Bare(nn.Module):
    """An activation, a norm: what changes values and moves none."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def laid_bare(model: nn.Module) -> nn.Module:
    """The same network with positive weights, nothing that hides a path, and averages in place of maxima."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.BatchNorm2d | nn.Dropout):
                setattr(module, name, Bare())
            elif isinstance(child, nn.MaxPool2d):
                average = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, ceil_mode=child.ceil_mode)
                setattr(module, name, average)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    return model.double().eval()


def footprint(model: nn.Module, layer: str, size: int) -> tuple[int, int]:
    """Height and width of the pixels that a unit in the middle of the layer's map depends on, by its gradient."""
    maps = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: maps.append(output))
    image = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    model(image)
    handle.remove()
    middle = maps[0].shape[-1] // 2
    (gradient,) = torch.autograd.grad(maps[0][0, 0, middle, middle], image)
    rows, columns = torch.nonzero(gradient.abs().sum((0, 1)), as_tuple=True)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


@pytest.mark.parametrize(
    ("make", "layers", "size"),
    [
        (lambda n: CustomResNet(num_classes=3, in_channels=3, image_size=n, width=1),
         ["0", "1", "2", "3", "4", "5"], 128),
        (lambda n: ResNet(num_classes=3, in_channels=3, image_size=n, width=1),
         ["stem", "stages.0", "stages.1", "stages.2", "stages.3.0", "stages.3"], 192),
        (lambda n: TorchvisionModel(num_classes=3, in_channels=3, image_size=n, name="resnet18"),
         ["network.maxpool", "network.layer1", "network.layer2.0", "network.layer2"], 256),
        (lambda n: TorchvisionModel(num_classes=3, in_channels=3, image_size=n, name="vgg11"),
         ["network.features.5", "network.features.10", "network.features.15"], 112),
    ],
    ids=["custom_resnet", "resnet18", "torchvision resnet18", "vgg11"],
)  # fmt: skip
def test_it_is_what_the_gradient_reaches(make, layers, size):
    model = laid_bare(make(size))
    fields = fields_of(model.float(), size)
    model.double()
    for layer in layers:
        field = fields[layer][0]
        assert (field.height.size, field.width.size) == footprint(model, layer, size), layer


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_does_not_depend_on_how_the_network_lies_in_memory(layout):
    """Runs keep networks in channels_last, whose averages over a map torch ends with another operation."""
    model = ResNet(num_classes=10, in_channels=3, image_size=32, width=4).to(memory_format=layout)
    fields = fields_of(model, 32)
    assert [fields[name][0].size for name in ("stages.3", "pool", "classifier", "")] == ["109", *["whole image"] * 3]


def test_sides_may_differ_and_branches_join():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(3, 2, (1, 7), padding=(0, 3))
            self.dilated = nn.Conv2d(3, 2, 3, padding=2, dilation=2)
            self.join = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.join(torch.cat([self.wide(x), self.dilated(x)], 1))

    fields = fields_of(Branches(), 16)
    assert {name: fields[name][0].size for name in ("wide", "dilated", "join")} == {
        "wide": "1 x 7", "dilated": "5", "join": "5 x 7",
    }  # fmt: skip


class Between(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.after = nn.Conv2d(4, 4, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.between(self.conv(x)))


def test_a_gate_over_the_whole_image_makes_the_whole_image_seen():
    fields = fields_of(Between(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), 16)
    assert fields["conv"][0].size == "3" and fields["after"][0].size == "whole image"


def test_what_is_not_understood_is_unknown_and_never_made_up():
    fields = fields_of(Between(lambda x: torch.fft.fft2(x).real), 16)
    assert fields["conv"][0].size == "3"
    assert fields["after"][0].size == "unknown" and fields["after"][0].unknown


@pytest.mark.slow
def test_every_network_of_torchvision_gives_numbers_or_says_why_not():
    """Without memory or arithmetic. What is unknown are the shifted windows of swin and convnext's reshapes."""
    unknown = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        size = {"inception_v3": 299}.get(name, 256 if "swin" in name else 224)
        with _registered_on_meta():
            model = TorchvisionModel(num_classes=2, in_channels=3, image_size=size, name=name)
        fields = receptive_fields(model, torch.zeros(1, 3, size, size, device="meta"))
        known = [field for calls in fields.values() for field in calls if field is not None]
        assert known and all(field.unknown or field.size for field in known)
        if any(field.unknown for field in known):
            unknown.add(name.partition("_")[0])
    assert unknown <= {"swin", "convnext"}


# The table


def test_the_totals_are_those_of_the_reference():
    """6,573,120 parameters and 379.26 M multiply-adds: the reference notebooks' torchsummary, and by hand."""
    model = CustomResNet(num_classes=10, in_channels=3, image_size=32, width=64)
    layers, totals, text = summarised(model, torch.zeros(1, 3, 32, 32))
    assert totals["parameters"] == totals["trainable parameters"] == 6_573_120
    assert abs(totals["multiply-adds"] - 379.26e6) < 0.01e6
    assert totals["parameters size"] == "26.29 MB" and totals["input size"] == "0.01 MB"
    by_name = {layer.name: layer for layer in layers}
    assert by_name["2"].parameters == 295_424 and by_name["2"].output_shape == "128x16x16"
    assert by_name["the network"].mult_adds == totals["multiply-adds"]
    assert "6,573,120" in text and "2.branch.1.0" in text


@pytest.fixture
def subject_of(tmp_path, cpu):
    def make(model, size=32, channels=3):
        info = DatasetInfo("made", tuple("0123456789"), size, channels, 0, 0, 0)
        paths = RunPaths(tmp_path)
        return SimpleNamespace(model=model, info=info, runtime=cpu, paths=paths, folder=paths.report)

    return make


def test_the_table_stands_in_the_files_whole_and_on_the_page_as_far_as_it_fits(subject_of):
    model = TorchvisionModel(num_classes=10, in_channels=1, image_size=32, name="densenet121")
    section = draw_summary(subject_of(model, channels=1))
    totals, table = section.tables
    assert dict(totals.rows)["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    with table.data.open() as file:
        rows = list(csv.DictReader(file))
    assert len(table.rows) <= 60 < len(rows) and f"{len(rows) - len(table.rows):,} layers" in table.caption
    assert {row["layer"] for row in rows} == {name or "the network" for name, _ in model.named_modules()}
    (figure,) = section.figures
    assert figure.image.suffix == ".svg" and "Receptive field of" in figure.alt


def test_the_network_is_left_as_it_was(subject_of):
    model = ResNet(num_classes=10, in_channels=3, image_size=32, width=4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    draw_summary(subject_of(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_network_without_maps_has_its_table_all_the_same(subject_of):
    section = draw_summary(subject_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10)), size=16))
    assert section.figures == () and dict(section.tables[0].rows)["parameters"] == 7_690
