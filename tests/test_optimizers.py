"""The four optimizers: torch's own steps, what decays, what a skipped step leaves alone, and going on bit for bit."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import ConfigError
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.optimizers import rmsprop as rmsprop_module
from resnet_exp.optimizers.adam import adam
from resnet_exp.optimizers.adamw import adamw
from resnet_exp.optimizers.parameter_groups import decay_groups
from resnet_exp.optimizers.rmsprop import rmsprop
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.schedulers.onecycle import OneCycle
from resnet_exp.training.device import Runtime

# Each factory, torch's class of that name, and settings that show in every step.
OPTIMIZERS = {
    "sgd": (sgd, torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    "sgd without momentum": (sgd, torch.optim.SGD, {"momentum": 0, "nesterov": False, "weight_decay": 0.05}),
    "adam": (adam, torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.05}),
    "adamw": (adamw, torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.05}),
    "rmsprop": (rmsprop, torch.optim.RMSprop, {"alpha": 0.8, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.05}),
    "rmsprop without momentum": (
        rmsprop, torch.optim.RMSprop, {"alpha": 0.8, "eps": 1e-2, "momentum": 0, "weight_decay": 0}
    ),
}  # fmt: skip
FACTORIES = {"sgd": sgd, "adam": adam, "adamw": adamw, "rmsprop": rmsprop}
FUSED = {"sgd": sgd, "adam": adam, "adamw": adamw}
LRS = [0.002 * (1 + step % 7) for step in range(20)]


def ignore(n=1):
    pass


def network(seed=0):
    """Convolutions with batch norm, as in our models; a bias before a norm would have rounding for a gradient."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def random_batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        Batch(torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator))
        for _ in range(count)
    ]


def learner_of(tiny_learner, make, lrs=LRS, **settings):
    return tiny_learner(lrs, model=network(), optimizer=make, channels_last=False, **settings)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def state_of(optimizer):
    """All of the optimizer's state, parameter by parameter, and by name."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [value.clone() for parameter in parameters for _, value in sorted(optimizer.state[parameter].items())]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def plain_steps(model, optimizer, batches, lrs):
    """torch's own way, with an LR that is a number."""
    for batch, lr in zip(batches, lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        one_step(model, optimizer, batch)


def one_step(model, optimizer, batch):
    optimizer.zero_grad()
    F.cross_entropy(model(batch.images), batch.labels).backward()
    optimizer.step()


# The steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_those_of_torchs_own_optimizer(tiny_learner, name):
    """Fused or not, and with an LR on the device: as torch's plainest form, one parameter after the other."""
    make, plain, settings = OPTIMIZERS[name]
    learner, model, batches = learner_of(tiny_learner, make(**settings)), network(), random_batches(20)
    learner.train(batches, 0, ignore)
    plain_steps(model, plain(model.parameters(), lr=1.0, foreach=False, **settings), batches, LRS)
    torch.testing.assert_close(weights(learner.model), weights(model), rtol=1e-5, atol=1e-6)
    moved = [(new - old).abs().max() for new, old in zip(weights(model), weights(network()), strict=True)]
    assert min(moved) > 1e-3, "the comparison is of something"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_lr_on_the_device_is_as_good_as_a_number_bit_for_bit(tiny_learner, name):
    make, _, settings = OPTIMIZERS[name]
    learner, model, batches = learner_of(tiny_learner, make(**settings)), network(), random_batches(20)
    learner.train(batches, 0, ignore)
    plain_steps(model, make(**settings)(model), batches, LRS)
    assert isinstance(learner.optimizer.param_groups[0]["lr"], torch.Tensor)
    assert equal(weights(learner.model), weights(model))


@pytest.mark.parametrize("name", FACTORIES)
def test_norms_and_biases_spared_move_as_with_two_groups_of_torchs_own(tiny_learner, name):
    make, plain, settings = OPTIMIZERS[name]
    learner = learner_of(tiny_learner, make(**settings, decay_norms_and_biases=False))
    model, batches = network(), random_batches(20)
    learner.train(batches, 0, ignore)
    spared = [*model[1].parameters(), *model[4].parameters(), model[8].bias]
    groups = [{"params": [model[0].weight, model[3].weight, model[8].weight]}, {"params": spared, "weight_decay": 0}]
    plain_steps(model, plain(groups, lr=1.0, foreach=False, **settings), batches, LRS)
    torch.testing.assert_close(weights(learner.model), weights(model), rtol=1e-5, atol=1e-6)


def test_adams_decay_is_scaled_with_the_gradient_and_adamws_is_not():
    """One weight of 2, a gradient of 0, lr 0.1, decay 0.1: L2 makes a whole step of it, decoupled takes lr * decay."""
    found = {}
    for make in (adam, adamw):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 2.0)
        optimizer = make(weight_decay=0.1)(model)
        model.weight.grad = torch.zeros(1, 1)
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        found[make] = model.weight.item()
    assert found == {adam: pytest.approx(2 - 0.1, rel=1e-6), adamw: pytest.approx(2 * (1 - 0.1 * 0.1), rel=1e-6)}


# What decays


class Transformer(nn.Module):
    """What a transformer has beside norms and linear layers; nothing is computed."""

    def __init__(self):
        super().__init__()
        self.class_token = nn.Parameter(torch.ones(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.norm = nn.LayerNorm(8)
        self.norm_of_images = nn.LayerNorm((3, 4, 4))
        self.root = nn.RMSNorm((4, 4))
        self.relative_position_bias_table = nn.Parameter(torch.ones(9, 2))
        self.layer_scale = nn.Parameter(torch.ones(8))
        self.temperature = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, 3)
        self.tied = nn.Linear(8, 3)
        self.tied.weight, self.tied.bias = self.head.weight, self.head.bias


TRANSFORMER_DECAYS = ["class_token", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]


def names_in(model, parameters):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return sorted(names[id(parameter)] for parameter in parameters)


def test_in_the_custom_resnet_exactly_convolutions_and_the_linear_layer_decay():
    model = CustomResNet(num_classes=10, in_channels=3, image_size=32, width=4)
    decayed, spared = decay_groups(model, 0.1, decay_norms_and_biases=False)
    layers = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    norms = [p for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert (len(layers), len(norms)) == (9, 16)
    assert names_in(model, decayed["params"]) == names_in(model, layers)
    assert names_in(model, spared["params"]) == names_in(model, norms)


def test_in_a_transformer_norms_of_any_shape_and_whatever_is_called_a_bias_are_spared():
    model = Transformer()
    decayed, spared = decay_groups(model, 0.1, decay_norms_and_biases=False)
    assert names_in(model, decayed["params"]) == sorted(TRANSFORMER_DECAYS)
    others = {name for name, _ in model.named_parameters()} - set(TRANSFORMER_DECAYS)
    assert names_in(model, spared["params"]) == sorted(others)
    assert {"norm_of_images.weight", "root.weight", "attention.bias_k"} <= others


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("decays", [True, False])
def test_without_a_gradient_only_what_decays_moves(make, decays):
    model = Transformer()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make(weight_decay=0.1, decay_norms_and_biases=decays)(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    not_zero = {name for name, parameter in before.items() if parameter.any()}
    assert moved == (not_zero if decays else set(TRANSFORMER_DECAYS))


def test_a_model_of_biases_alone_has_one_group_that_does_not_decay():
    assert [group["weight_decay"] for group in decay_groups(nn.BatchNorm1d(3), 0.1, False)] == [0.0]


# Steps that are skipped


@pytest.fixture
def fp16(monkeypatch):
    """A runtime that scales the loss as fp16 does, and computes in fp32: the CPU has no fp16 to train in."""
    monkeypatch.setattr(Runtime, "autocast", lambda self: contextlib.nullcontext())
    return Runtime(torch.device("cpu"), "fp16")


def overflowing_above(model, limit):
    """Gives the model fp16's range: a scaled gradient beyond `limit` becomes infinite."""
    for parameter in model.parameters():
        parameter.register_hook(lambda grad: torch.where(grad.abs() > limit, float("inf"), grad))


@pytest.mark.parametrize("runtime", ["cpu", "fp16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_first_step_leaves_the_weights_and_a_state_of_zeros(tiny_learner, request, name, runtime):
    make, _, settings = OPTIMIZERS[name]
    learner = learner_of(tiny_learner, make(**settings), runtime=request.getfixturevalue(runtime))
    batches = random_batches(1)
    batches[0].images[0, 0] = float("nan")
    learner.train(batches, 0, ignore)
    assert equal(weights(learner.model), weights(network()))
    if runtime == "fp16" or make is not rmsprop:  # in fp32 the training ends here: no update uses rmsprop's state
        assert not any(value.any() for value in state_of(learner.optimizer))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_fp16_skips_leaves_weights_and_state_alone(tiny_learner, fp16, name):
    make, _, settings = OPTIMIZERS[name]
    learner = learner_of(tiny_learner, make(**settings), runtime=fp16)
    batches = random_batches(6)
    learner.train(batches[:3], 0, ignore)
    before, state = weights(learner.model), state_of(learner.optimizer)
    hook = learner.model[8].bias.register_hook(lambda grad: grad * float("inf"))
    learner.train(batches[3:5], 3, ignore)
    learner.check()
    assert equal(weights(learner.model), before)
    assert equal(state_of(learner.optimizer), state)
    hook.remove()
    learner.train(batches[5:], 5, ignore)
    assert not equal(weights(learner.model), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fp16_trains_as_torchs_grad_scaler_does_skips_at_the_start_included(tiny_learner, fp16, name):
    make, _, settings = OPTIMIZERS[name]
    learner = learner_of(tiny_learner, make(**settings), [0.01] * 12, runtime=fp16)
    model, batches = network(), random_batches(12)
    optimizer, scaler = make(**settings)(model), torch.amp.GradScaler("cpu")
    scales = []
    for each in (learner.model, model):
        overflowing_above(each, limit=4000)
    learner.train(batches, 0, ignore)
    for batch in batches:
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(batch.images), batch.labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales[0] < 65536 and scales[-1] == scales[-2], "some steps were skipped, not all"
    assert learner.state_dict()["scale"] == scales[-1]
    assert equal(weights(learner.model), weights(model))
    assert equal(state_of(learner.optimizer), state_of(optimizer))


# Going on


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learner_goes_on_from_a_checkpoint_bit_for_bit(tiny_learner, tmp_path, name, decays):
    make, _, settings = OPTIMIZERS[name]
    settings = {**settings, "weight_decay": 0.05, "decay_norms_and_biases": decays}
    whole, first, second = (learner_of(tiny_learner, make(**settings)) for _ in range(3))
    batches = random_batches(12)
    whole.train(batches, 0, ignore)
    first.train(batches[:5], 0, ignore)
    Checkpoints(tmp_path, "run").save(1, 5, first.state_dict())
    second.load_state_dict(Checkpoints(tmp_path, "run").latest(torch.device("cpu")).state)
    assert equal(state_of(second.optimizer), state_of(first.optimizer))
    assert [v.dtype for v in state_of(second.optimizer)] == [v.dtype for v in state_of(first.optimizer)]
    second.train(batches[5:], 5, ignore)
    assert equal(weights(second.model), weights(whole.model))
    assert equal(state_of(second.optimizer), state_of(whole.optimizer))


def test_rmsprop_goes_on_on_the_cpu_from_a_state_of_the_gpu():
    """torch would take over `capturable`, which it refuses on the CPU."""
    model = nn.Linear(2, 2)
    optimizer = rmsprop()(model)
    model.weight.grad, model.bias.grad = torch.ones(2, 2), torch.ones(2)
    optimizer.step()
    state = optimizer.state_dict()
    state["param_groups"][0].update(foreach=True, capturable=True)
    optimizer.load_state_dict(state)
    optimizer.step()
    assert optimizer.state[model.weight]["step"] == 2
    assert state["param_groups"][0]["capturable"], "what is loaded is not changed"


# Waiting for the device


class Waits(TorchDispatchMode):
    """Collects the operations that read a value off a tensor: for these the host waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(word in function.name() for word in ("_local_scalar_dense", "item", "nonzero", "equal")):
            self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("runtime", ["cpu", "fp16"])
@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_with_a_fused_optimizer_the_host_never_waits(tiny_learner, request, make, runtime):
    learner = learner_of(tiny_learner, make(decay_norms_and_biases=False), runtime=request.getfixturevalue(runtime))
    with Waits() as waits:
        learner.train(random_batches(3), 0, ignore)
    assert waits.seen == []


@pytest.fixture
def on_the_cpu_as_on_cuda(monkeypatch):
    """RMSprop in the form that it has on CUDA; torch refuses it on the CPU, where it works as well."""
    monkeypatch.setattr(sys.modules["torch.optim.rmsprop"], "_get_capturable_supported_devices", lambda: ["cpu"])
    as_on_cuda = rmsprop_module._implementation(True)
    monkeypatch.setattr(rmsprop_module, "_implementation", lambda on_cuda: as_on_cuda)


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop without momentum"])
def test_the_form_that_rmsprop_has_on_cuda_makes_the_same_steps_without_waiting(
    tiny_learner, on_the_cpu_as_on_cuda, name
):
    make, plain, settings = OPTIMIZERS[name]
    learner, model, batches = learner_of(tiny_learner, make(**settings)), network(), random_batches(20)
    with Waits() as waits:
        learner.train(batches, 0, ignore)
    assert waits.seen == []
    plain_steps(model, plain(model.parameters(), lr=1.0, foreach=False, **settings), batches, LRS)
    torch.testing.assert_close(weights(learner.model), weights(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"momentum": 0}])
def test_a_broken_step_leaves_the_weights_also_in_that_form(tiny_learner, on_the_cpu_as_on_cuda, settings):
    """It divides by the LR, which is 0 in a step that must not count."""
    learner, batches = learner_of(tiny_learner, rmsprop(**settings)), random_batches(3)
    learner.train(batches[:1], 0, ignore)
    before = weights(learner.model)
    batches[1].images[0, 0] = float("nan")
    learner.train(batches[1:], 1, ignore)
    assert equal(weights(learner.model), before)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_host_never_waits_for_the_gpu_but_for_rmsprop_in_fp16(tiny_learner, name, precision):
    make, _, settings = OPTIMIZERS[name]
    device = torch.device("cuda", 0)
    learner = learner_of(tiny_learner, make(**settings), runtime=Runtime(device, precision))
    batches = [Batch(batch.images.to(device), batch.labels.to(device)) for batch in random_batches(6)]
    learner.train(batches[:3], 0, ignore)  # what is set up once may wait
    waits = precision == "fp16" and make is rmsprop
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError) if waits else contextlib.nullcontext():
            learner.train(batches[3:], 3, ignore)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.check()


@pytest.mark.cuda
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_gpus_steps_are_those_of_the_cpu(tiny_learner, name):
    make, _, settings = OPTIMIZERS[name]
    on_cpu, on_gpu = (
        learner_of(tiny_learner, make(**settings), runtime=Runtime(torch.device(device), "fp32"))
        for device in ("cpu", "cuda")
    )
    batches = random_batches(5)
    on_cpu.train(batches, 0, ignore)
    with torch.backends.cudnn.flags(allow_tf32=False):
        on_gpu.train([Batch(batch.images.cuda(), batch.labels.cuda()) for batch in batches], 0, ignore)
    torch.testing.assert_close([w.cpu() for w in weights(on_gpu.model)], weights(on_cpu.model), rtol=1e-3, atol=1e-4)


# A cycled momentum


@pytest.mark.parametrize("name", FACTORIES)
def test_a_cycled_momentum_makes_the_steps_of_torchs_one_cycle(tiny_learner, name):
    make, plain, settings = OPTIMIZERS[name]
    plan = OneCycle("find", "find", 1e-4, peak_epoch=1, cycle_momentum=True).plan(0.02, 2, 10)
    learner = learner_of(tiny_learner, make(**settings, decay_norms_and_biases=False), plan)
    seen, expected, batches = [], [], random_batches(20)
    learner.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.extend(momenta(optimizer)))
    learner.train(batches[:7], 0, ignore)
    learner.train(batches[7:], 7, ignore)

    model = network()
    optimizer = plain(decay_groups(model, settings["weight_decay"], False), lr=1.0, foreach=False, **settings)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.02, total_steps=20, pct_start=0.5, div_factor=8, final_div_factor=1e4
    )
    for batch in batches:
        expected.extend(momenta(optimizer))
        one_step(model, optimizer, batch)
        one_cycle.step()
    assert len(seen) == 40 and seen == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(weights(learner.model), weights(model), rtol=1e-5, atol=1e-6)


def momenta(optimizer):
    """Of each group; the second beta is no momentum, and stays."""
    assert all(group["betas"][1] == 0.99 for group in optimizer.param_groups if "betas" in group)
    return [group["betas"][0] if "betas" in group else group["momentum"] for group in optimizer.param_groups]


@pytest.mark.parametrize(("make", "called"), [
    (sgd(momentum=0.0, nesterov=False), "SGD"),
    (rmsprop(momentum=0.0), "RMSprop"),
    (adam(betas=(0.0, 0.99)), "Adam"),
    (lambda model: torch.optim.Adagrad(model.parameters()), "Adagrad"),
])  # fmt: skip
def test_a_momentum_that_is_not_there_cannot_be_cycled(tiny_learner, make, called):
    learner_of(tiny_learner, make)
    message = rf"scheduler\.cycle_momentum=true needs a momentum, and this {called} has none; set .* or choose"
    with pytest.raises(ConfigError, match=message):
        learner_of(tiny_learner, make, momenta=(0.9,) * 20)


# Settings


@pytest.mark.parametrize("name", FACTORIES)
def test_norms_and_biases_cannot_be_spared_a_decay_that_there_is_not(name):
    FACTORIES[name](weight_decay=0)
    message = r"decay_norms_and_biases=false would be ignored: optimizer\.weight_decay=0 decays nothing; set"
    with pytest.raises(ConfigError, match=message):
        FACTORIES[name](weight_decay=0, decay_norms_and_biases=False)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov=true needs optimizer\.momentum above 0; set"):
        sgd(momentum=0)


@pytest.mark.parametrize(("target", "wrong", "message"), [
    ("sgd.sgd", {"momentum": 1.0}, "optimizer.momentum=1.0: a finite number from 0 to below 1 is needed"),
    ("rmsprop.rmsprop", {"alpha": 1}, "optimizer.alpha=1: a finite number from 0 to below 1"),
    ("rmsprop.rmsprop", {"eps": 0}, "optimizer.eps=0: a finite number above 0"),
    ("rmsprop.rmsprop", {"centered": True}, "optimizer.centered is no key"),
    ("adam.adam", {"betas": [0.9]}, "optimizer.betas=[0.9]: a list of 2, each a finite number from 0 to below 1"),
    ("adam.adam", {"betas": [0.9, 1]}, "optimizer.betas=[0.9,1]"),
    ("adam.adam", {"betas": 0.9}, "optimizer.betas=0.9"),
    ("adamw.adamw", {"eps": -1e-8}, "optimizer.eps=-1e-08"),
    ("adamw.adamw", {"weight_decay": -1}, "optimizer.weight_decay=-1: a finite number of at least 0"),
    ("adamw.adamw", {"decay_norms_and_biases": 0}, "optimizer.decay_norms_and_biases=0: true or false"),
])  # fmt: skip
def test_a_wrong_setting_is_named_when_it_is_given(target, wrong, message, refused):
    assert message in refused("optimizer", f"optimizers.{target}", **wrong)


def test_whole_numbers_are_taken_where_numbers_are_meant(tiny_learner):
    """`betas: [0, 0.999]` is what a yaml holds; torch itself wants a float there."""
    learner = learner_of(tiny_learner, adam(betas=[0, 0.999], eps=1, weight_decay=1))
    learner.train(random_batches(1), 0, ignore)
    learner.check()


def test_settings_are_refused_without_importing_torch():
    code = "\n".join([
        "import sys",
        *(f"from resnet_exp.optimizers.{name} import {name}; {name}()" for name in FACTORIES),
        "from resnet_exp.interfaces import ConfigError",
        "try: sgd(momentum=0)",
        "except ConfigError: print([name for name in ('torch', 'numpy') if name in sys.modules])",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
