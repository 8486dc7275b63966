"""What public reports of other projects tell of networks, figures and tables, tried here; one small test each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

import matplotlib as mpl
import numpy as np
import pandas
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib import font_manager
from matplotlib.figure import Figure as Canvas
from torch import nn

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import typed
from resnet_exp.config.model_check import check_input_size
from resnet_exp.data.memory import memory_told
from resnet_exp.data.split import check_fit, part_of_one
from resnet_exp.interfaces import ConfigError, DatasetInfo, DataSize, RunError
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.report import fonts
from resnet_exp.report.drawing import in_own_style, save
from resnet_exp.run_dir.files import write_csv
from resnet_exp.run_dir.weights import load_weights, weights_of
from resnet_exp.training.device import start_runtime
from resnet_exp.training.trial import try_network

INFO = DatasetInfo("", ("a", "b"), 8, 3, 0, 0, 0)


class Net(nn.Module):
    """Logits of two classes; `features` may be changed."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def features(self, images):
        return self.first(images.mean((2, 3)))

    def forward(self, images):
        return self.last(self.features(images))


def tried(make, cpu, train_config, **how):
    try_network(make, sgd(), INFO, train_config(), cpu, **how)


# Saving


def test_tied_weights_are_saved():
    """safetensors/safetensors#98: a network with an output layer tied to another cannot be saved with save_file."""
    model, loaded = Net(), Net()
    for one in (model, loaded):
        one.second = nn.Linear(3, 3)
        one.second.weight = one.first.weight
    load_weights(loaded, weights_of(model))
    assert torch.equal(loaded.second.weight, model.first.weight) and loaded.second.weight is loaded.first.weight


def test_buffers_cut_from_one_tensor_are_saved():
    """safetensors/safetensors#202: views of one larger tensor share memory, and saving raises."""
    model, whole = Net(), torch.arange(6.0)
    model.register_buffer("low", whole[:3])
    model.register_buffer("high", whole[3:])
    saved = weights_of(model)
    assert saved["low"].tolist() == [0, 1, 2] and saved["high"].tolist() == [3, 4, 5]
    assert saved["low"].untyped_storage().nbytes() == 12


def test_a_flag_that_is_not_saved_is_refused(cpu, train_config):
    """david-knigge/ccnn#14: a non-persistent buffer says that weights are initialised; loaded, they are made anew."""

    class Flagged(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("initialised", torch.zeros(1), persistent=False)

        def features(self, images):
            if not self.initialised.item():
                with torch.no_grad():
                    self.first.weight.copy_(torch.randn(3, 3))
                self.initialised += 1
            return super().features(images)

    with pytest.raises(ConfigError, match="saved and loaded it gives other logits"):
        tried(Flagged, cpu, train_config)


def test_a_number_that_is_no_buffer_is_refused_if_it_changes(cpu, train_config):
    """ACEsuit/mace#1415: an attribute that depends on the data is no buffer, and is another one after loading."""

    class Scaled(Net):
        scale = 1.0

        def features(self, images):
            if self.training:
                self.scale = 1 + float(images.std())
            return super().features(images) * self.scale

    with pytest.raises(ConfigError, match="it keeps something that is not saved"):
        tried(Scaled, cpu, train_config)


def test_a_random_mask_is_saved_if_it_is_a_buffer_and_refused_if_not(cpu, train_config):
    """pyro-ppl/pyro#1839: masks drawn at random when a network is made were not saved with its parameters."""

    class Masked(Net):
        def __init__(self, is_buffer):
            super().__init__()
            self.register_buffer("mask", torch.randn(3)) if is_buffer else setattr(self, "mask", torch.randn(3))

        def features(self, images):
            return super().features(images) * self.mask

    tried(lambda: Masked(True), cpu, train_config)
    with pytest.raises(ConfigError, match="saved and loaded"):
        tried(lambda: Masked(False), cpu, train_config)


def test_dropout_is_no_difference_between_saved_and_loaded(cpu, train_config):
    """pytorch/pytorch#13242: outputs of a saved and a loaded network differ where dropout is drawn anew for each."""

    class Dropping(Net):
        def features(self, images):
            return nn.functional.dropout(super().features(images), 0.5, self.training)

    tried(Dropping, cpu, train_config)


def test_lazy_layers_have_their_sizes_before_the_optimizer_asks(tmp_path, monkeypatch):
    """Lightning-AI/pytorch-lightning#7546 and #13764: lazy layers have no parameters when the optimizer is made."""
    from resnet_exp.config import build

    class Lazy(Net):
        def __init__(self, **how):
            super().__init__()
            self.first = nn.LazyLinear(3)

    check_input_size(lambda size: Lazy(), 8, 3, 2)
    with initialize_config_dir(str(CONF)):
        config = typed(compose("config"), ())
    monkeypatch.setattr(build, "_make", lambda *_, **how: Lazy(**how))
    model = build.model(config, INFO)
    assert not any(nn.parameter.is_lazy(parameter) for parameter in model.parameters())
    assert sum(parameter.numel() for group in sgd()(model).param_groups for parameter in group["params"]) == 20


# Batches, determinism, memory


def test_a_last_batch_of_one_image_is_refused():
    """fastai/fastai#1352: a last batch of one image fails in batch normalisation, an epoch into the training."""
    settings = typed_split("data.validation=none")
    with pytest.raises(ConfigError, match="last batch of one image"):
        check_fit(DataSize(33, 2), settings, 16)


def typed_split(*overrides):
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=list(overrides)), overrides).split


def test_one_value_a_channel_is_refused_for_parts_of_a_batch(cpu, train_config):
    """pytorch/pytorch#4534: batch normalisation raises on one value a channel, which a valid batch may leave it."""

    class Normed(Net):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def features(self, images):
            return self.norm(super().features(images))

    one_image = part_of_one(trained=64, batch_size=16, parts=16)
    with pytest.raises(ConfigError, match=r"take train\.grad_accum_steps=8"):
        tried(Normed, cpu, train_config, one_image=one_image)


def test_adaptive_pooling_is_named_where_torch_refuses_it(cpu, train_config):
    """pytorch/pytorch#50198: VGG and AlexNet cannot be trained deterministically on CUDA: adaptive pooling."""

    class Pooled(Net):
        def __init__(self):
            super().__init__()
            self.avgpool = nn.AdaptiveAvgPool2d(7)

        def features(self, images):
            self.avgpool(images)
            raise RuntimeError(
                "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you"
            )

    with pytest.raises(ConfigError, match=r"adaptive_avg_pool2d_backward_cuda \(in avgpool\).*deterministic=false"):
        tried(Pooled, cpu, train_config)


def test_cublas_is_told_before_the_first_run(monkeypatch):
    """pytorch/pytorch#15359: CUBLAS_WORKSPACE_CONFIG that is set after cuBLAS has been used changes nothing."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the end of the test
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    benchmark = torch.backends.cudnn.benchmark
    try:
        start_runtime("cpu", "fp32", deterministic=False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.backends.cudnn.benchmark = benchmark


def test_out_of_memory_names_the_settings():
    """optuna/optuna#1224: trials end with torch's own message, which names no setting that would make it smaller."""
    said = r"Tried to allocate 88\.00 MiB.*take a smaller train\.batch_size"
    with pytest.raises(RunError, match=said), memory_told("training", "take a smaller train.batch_size"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 88.00 MiB (GPU 0; 10.76 GiB total)")


# Figures


def picture(path):
    canvas = Canvas(figsize=(1, 1))
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.imshow(np.array([[0, 0], [1, 1]]), cmap="gray")
    axes.axis("off")
    return save(canvas, path).read_bytes()


def test_an_image_stands_upright_whatever_the_user_has_set(tmp_path):
    """holoviz/holoviews#2303: `image.origin: lower` in a matplotlibrc turned images of a library upside down."""
    expected = in_own_style(lambda: picture(tmp_path / "a.png"))
    with mpl.rc_context({"image.origin": "lower"}):
        assert in_own_style(lambda: picture(tmp_path / "b.png")) == expected != picture(tmp_path / "c.png")


def test_a_notebooks_backend_does_not_reach_the_command():
    """deeptools/deepTools#1416: MPLBACKEND of a notebook made a command fail where matplotlib-inline was missing."""
    env = {**os.environ, "MPLBACKEND": "module://nobody_has.backend_inline"}
    code = "import resnet_exp.__main__, matplotlib.pyplot as plt; plt.figure(); print(plt.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip().lower() == "agg", done.stderr


@pytest.fixture
def fresh_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_families", ["sans-serif"])
    monkeypatch.setattr(fonts, "_undrawable", set())


def test_chinese_texts_give_no_flood_of_warnings(tmp_path, fresh_fonts):
    """matplotlib/matplotlib#15062: Chinese texts are boxes, with a warning for each of their characters."""

    def draw():
        canvas = Canvas()
        canvas.text(0.1, 0.1, "\u4e09\u6708")
        return save(canvas, tmp_path / "chinese.png")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_own_style(draw)
    assert len(fonts.families()) > 1 or not fonts.is_drawable("\u4e09\u6708")


def test_a_font_that_was_installed_since_is_found(tmp_path, fresh_fonts, monkeypatch):
    """matplotlib/matplotlib#13810: a font that was installed after the cache was written is not found."""
    new = tmp_path / "New.ttf"
    shutil.copy(font_manager.findfont("DejaVu Sans"), new)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [str(new)])
    before = list(font_manager.fontManager.ttflist)
    try:
        assert fonts.look_for({"\u2713"}) and fonts.is_drawable("\u2713")
        assert str(new) in {font.fname for font in font_manager.fontManager.ttflist}
    finally:
        font_manager.fontManager.ttflist[:] = before


# Tables


def test_a_formula_in_a_cell_is_a_text(tmp_path):
    """hhurz/tableExport.jquery.plugin#230: a name such as =cmd|... is run when the table is opened in a spreadsheet."""
    path = write_csv(tmp_path / "table.csv", ("class", "n"), [("=cmd|' /C calc'!A0", 1)])
    assert path.read_text().splitlines()[1].startswith("'=cmd")


def test_negative_numbers_stay_numbers_for_all_that(tmp_path):
    """netresearch/timetracker#324: an apostrophe before each minus would make texts of negative numbers."""
    path = write_csv(tmp_path / "table.csv", ("loss", "name"), [(-0.5, "-2h pairing"), ("-1e-05", "cat")])
    found = pandas.read_csv(path)
    assert found["loss"].tolist() == [-0.5, -1e-05] and found["name"].tolist() == ["'-2h pairing", "cat"]
