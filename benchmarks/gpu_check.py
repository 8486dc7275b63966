"""The steps of gpu_check.sh: env, run, many, bench, notebook. The package's code is called, never copied.

Times of a run's phases come from wrapping the functions in WRAPPED, by their names in the modules that call them; a
name that is no longer there ends the step with an error. The other steps call what other modules of the package call.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

# What is timed in a run: module, class or "", name, and the phase that its seconds belong to. One within
# another is written `outer/inner`: `training/epochs`, `range_test/epochs`; `measuring` alone is the test at the end.
WRAPPED = (
    ("resnet_exp.runs.run", "", "prepare", "data"),
    ("resnet_exp.runs.run", "", "resident", "data"),
    ("resnet_exp.runs.max_lr", "", "range_test", "range_test"),
    ("resnet_exp.runs.run", "", "train", "training"),
    ("resnet_exp.runs.run", "", "infer", "measuring"),
    ("resnet_exp.runs.outputs", "", "save_model", "model_files"),
    ("resnet_exp.runs.outputs", "", "save_report", "report"),
    ("resnet_exp.training.learner", "Learner", "train", "epochs"),
    ("resnet_exp.run_dir.checkpoint", "Checkpoints", "save", "checkpoints"),
)
OUT, SMALL, DATA = Path(os.environ["OUT"]), os.environ["SMALL"] == "1", os.environ.get("DATA", "")
BEGAN = float(os.environ.get("GPU_CHECK_BEGAN") or time.time())  # of the process, by the shell's clock
SOURCE = ["data=image_folder", f"data.root={DATA}"] if DATA else ["data=digits", "augmentation=crop"]
BASE = [*SOURCE, "model=custom_resnet", "scheduler=onecycle", "rerun=true"]
TINY = [
    "model.width=8", "train.epochs=2", "scheduler.peak_epoch=1", "train.batch_size=64", "data.limit_train=400",
    "range_test.num_steps=60", "range_test.repeats=1", "report.gradcam=2", "report.receptive_field=2",
]  # fmt: skip


def tell(record, line=None):
    with (OUT / "results.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    text = "   " + (line or json.dumps(record))
    print(text)
    with (OUT / "summary.txt").open("a") as file:
        file.write(text[:400] + "\n")


def on_gpu():
    import torch

    return torch.cuda.is_available()


def sync():
    import torch

    if on_gpu():
        torch.cuda.synchronize()


@contextlib.contextmanager
def attempt(what):
    """One thing that fails costs no other."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        tell({"failed": what, "error": f"{type(error).__name__}: {str(error)[:300]}"})


def settings(overrides):
    """The last override of a key counts: Hydra refuses two, and the command those that would be ignored."""
    chosen = {}
    for text in [*BASE, *overrides, *(TINY if SMALL else [])]:
        chosen[text.partition("=")[0]] = text
    if (
        SMALL and DATA and "scheduler.max_lr" not in chosen
    ):  # a few photographs teach nothing: the range test would fail
        chosen |= {"data": "data=digits", "augmentation": "augmentation=crop"}
        del chosen["data.root"]
    given, undrawn = "scheduler.max_lr" in chosen, chosen.get("report") == "report=none"
    ignored = ("range_test.",) * given + ("report.",) * undrawn
    return [text for key, text in chosen.items() if not (ignored and key.startswith(ignored))]


# ------------------------------------------------------------------------------------------------- the package's runs
class Phases:
    """Seconds and peak memory of the phases of `resnet_exp.runs.run.run`, by wrapping its functions."""

    def __init__(self, name):
        import resnet_exp.runs.run as way

        for module, cls, function, phase in WRAPPED:
            owner = importlib.import_module(module)
            owner = getattr(owner, cls) if cls else owner
            if not callable(getattr(owner, function, None)):
                raise SystemExit(
                    f"{module} has no {cls and f'{cls}.'}{function} any more: change WRAPPED in {__file__}"
                )
            setattr(owner, function, self._timed(getattr(owner, function), phase))
        self.inner, way.run = way.run, self._run
        self.name = name
        self.first = True
        self.open = []
        self.clear()

    def clear(self):
        self.seconds, self.peak = {}, {}

    def _timed(self, function, phase):
        def timed(*arguments, **keywords):
            import torch

            sync()
            outer = not self.open
            if outer and on_gpu():
                torch.cuda.reset_peak_memory_stats()
            self.open.append(phase)
            name = "/".join(self.open)
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                sync()
                self.open.pop()
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
                if outer and on_gpu():
                    self.peak[name] = torch.cuda.max_memory_allocated() / 2**30
                    self.peak[name + "_reserved"] = torch.cuda.max_memory_reserved() / 2**30

        return timed

    def _run(self, config, command, *rest):
        self.clear()
        begun, status, result = time.time(), "ok", {}
        if self.first:  # interpreter, torch, Hydra, the config
            self.seconds["start"] = begun - BEGAN
            self.first = False
        try:
            return self.inner(config, command, *rest)
        except BaseException as error:
            status = f"{type(error).__name__}: {str(error)[:200]}"
            raise
        finally:
            self.seconds["whole_run"] = time.time() - begun
            found = [p for p in Path(config.output_dir).glob("*/result.json") if p.stat().st_mtime >= begun - 1]
            if found and status == "ok":
                path = max(found, key=lambda p: p.stat().st_mtime)
                result = json.loads(path.read_text())
                (Path.cwd() / "last_run").write_text(str(path.parent.absolute()))
            self.report(config, status, result)

    def report(self, config, status, result):
        history = result.get("history") or []
        epochs = [e["perf/epoch_s"] for e in history]
        test = result.get("test", {})
        record = {
            "run": self.name,
            "status": status,
            "overrides": list(config.overrides),
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "peak_gib": {k: round(v, 3) for k, v in self.peak.items()},
            "test_accuracy": test.get("accuracy"),
            "test_correct": test.get("correct"),
            "best_val": result.get("best_val_accuracy"),
            "objective": result.get("objective"),
            "max_lr": result.get("max_lr"),
            "max_lr_source": result.get("max_lr_source"),
            "seed": config.seed,
            "epoch_s": [round(s, 3) for s in epochs],
            "images_per_s": [round(e["perf/images_per_s"]) for e in history],
        }
        per_s = sorted(record["images_per_s"][1:] or record["images_per_s"] or [0])
        sec = " ".join(f"{k} {v:.1f}" for k, v in self.seconds.items())
        peak = max((v for k, v in self.peak.items() if not k.endswith("_reserved")), default=0)
        tell(
            record,
            f"{self.name}: {status}; test {test.get('accuracy')}, best val {record['best_val']}, max_lr "
            f"{record['max_lr']}, seed {config.seed}; s: {sec}; median {per_s[len(per_s) // 2]:,} images/s; "
            f"peak {peak:.2f} GiB; {[o for o in config.overrides if o.startswith(('scheduler.', 'name', 'train.'))]}",
        )


def run(name, overrides):
    """The user's own command, in this process."""
    import resnet_exp.__main__ as entry

    Phases(name)
    sys.argv[1:] = settings(overrides)
    print("python -m resnet_exp", *sys.argv[1:])
    try:
        entry.main()
    finally:
        tell({"whole_command": name, "seconds": round(time.time() - BEGAN, 1)})


def many(name, groups):
    """Runs one after another in this process, each with overrides of its own."""
    Phases(name)
    import resnet_exp.runs.run as way

    for group in groups:
        with attempt(f"{name} {group}"):
            config = composed(settings(["report=none", "tracker=none", *group]))
            way.run(config, f"gpu_check {name} {' '.join(group)}")
            root = Path((Path.cwd() / "last_run").read_text())
            digest = hashlib.sha256((root / "model.safetensors").read_bytes()).hexdigest()[:16]
            tell({"weights": digest, "of": group})


def composed(overrides):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from resnet_exp.config.command_line import CONF
    from resnet_exp.config.config import typed

    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=list(overrides)), overrides)


# -------------------------------------------------------------------------------------------- the loop and its ceiling
class Bench:
    def __init__(self):
        import torch

        from resnet_exp.config import build
        from resnet_exp.data.bank import ImageBank, Normalisation
        from resnet_exp.interfaces import DatasetInfo
        from resnet_exp.training.device import start_runtime

        self.torch = torch
        self.config = composed(
            settings(["data.validation=none", "report=none", "tracker=none", "scheduler.max_lr=0.3"])
        )
        self.plugins = build.plugins(self.config)
        self.runtime = start_runtime("auto", "auto", False)
        loaded = self.plugins.source.load(quiet)
        norm = Normalisation.of(loaded.train.images)
        device = self.runtime.device
        self.bank = ImageBank(loaded.train, norm, device, self.plugins.augmentation.padding)
        self.test = ImageBank(loaded.test, norm, device)
        self.info = DatasetInfo(
            "x",
            loaded.class_names,
            loaded.train.images.shape[1],
            loaded.train.images.shape[3],
            len(loaded.train),
            0,
            len(loaded.test),
        )
        self.batch = self.config.train.batch_size
        self.full = len(self.bank) // self.batch
        self.device = device

    def model(self, width=None):
        from dataclasses import replace

        from resnet_exp.config import build

        self.torch.manual_seed(0)
        config, settings_ = self.config, self.config.plugins["model"]
        if width:
            config = replace(config, plugins={**config.plugins, "model": {**settings_, "width": width}})
        return build.model(config, self.info)

    def learner(self, width=None):
        from resnet_exp.interfaces import Schedule
        from resnet_exp.training.learner import Learner

        schedule = Schedule((0.01,) * 100_000, None, 0.01, 0.01)
        return Learner(self.model(width), self.plugins.optimizer, schedule, self.config.train, self.runtime, 0)

    def shuffled(self, epoch, steps=None):
        import itertools

        from resnet_exp.data.bank import shuffled

        batches = shuffled(self.bank, self.plugins.augmentation, self.batch, 0, epoch)
        return itertools.islice(batches, steps)

    def measured(self, label, work, steps, images, **more):
        """The median of some repeats; host: until the work was queued, wall: until the device was done."""
        walls, hosts = [], []
        for _ in range(1 if SMALL else 3):
            sync()
            start = time.perf_counter()
            work()
            hosts.append(time.perf_counter() - start)
            sync()
            walls.append(time.perf_counter() - start)
        wall, host = sorted(walls)[len(walls) // 2], sorted(hosts)[len(hosts) // 2]
        record = {
            "bench": label,
            "images_per_s": round(images / wall),
            "ms_per_step": round(1e3 * wall / steps, 3),
            "host_ms_per_step": round(1e3 * host / steps, 3),
            "walls_s": [round(w, 3) for w in walls],
            **more,
        }
        tell(
            record,
            f"{label}: {record['images_per_s']:,} images/s, {record['ms_per_step']} ms a step (host "
            f"{record['host_ms_per_step']}) {more or ''}",
        )
        return wall / steps

    # the package's own loop
    def loop(self, compiled=False, width=None):
        learner = self.learner(width)
        began = time.perf_counter()
        if compiled:
            learner.model.compile(dynamic=False, backend=backend())
        steps = self.full if not SMALL else min(self.full, 6)
        learner.train(self.shuffled(1, steps if compiled else None), 0, ignore)
        sync()
        warm = round(time.perf_counter() - began, 1)
        label = "training loop, model.compile()" if compiled else "training loop"
        if width:  # so narrow that the device waits for the host
            label = f"training loop at width {width}: what the host takes for a step"
        epoch = [1]

        def work():
            epoch[0] += 1
            learner.train(self.shuffled(epoch[0], steps), 0, ignore)

        self.measured(label, work, steps, steps * self.batch, warm_up_s=warm)
        learner.check()
        return learner

    def parts(self, learner):
        from resnet_exp.data.bank import in_order
        from resnet_exp.training.learner import infer

        steps = min(self.full, 6) if SMALL else self.full

        def batches():
            for _ in self.shuffled(9, steps):
                pass

        self.measured("making batches alone", batches, steps, steps * self.batch)
        n = -(-len(self.test) // self.batch)
        infer(learner.model, in_order(self.test, self.batch), self.runtime)
        self.measured(
            "evaluation (infer)",
            lambda: infer(learner.model, in_order(self.test, self.batch), self.runtime),
            n,
            len(self.test),
        )

    def waits(self, learner):
        """Where the host waits for the device within an epoch of the full size."""
        if not on_gpu():
            return
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            self.torch.cuda.set_sync_debug_mode("warn")
            try:
                learner.train(self.shuffled(20), 0, ignore)
            finally:
                self.torch.cuda.set_sync_debug_mode("default")
        where = {}
        for each in seen:
            key = f"{Path(each.filename).name}:{each.lineno} {str(each.message).splitlines()[0][:80]}"
            where[key] = where.get(key, 0) + 1
        tell({"waits_within_an_epoch": where})

    def profile(self, learner, steps=10):
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu() else [])
        learner.train(self.shuffled(30, 3), 0, ignore)
        sync()
        start = time.perf_counter()
        with profile(activities=kinds) as traced:
            learner.train(self.shuffled(31, steps), 0, ignore)
            sync()
        wall = time.perf_counter() - start
        by_device = "self_cuda_time_total" if on_gpu() else "self_cpu_time_total"
        table = traced.key_averages().table(sort_by=by_device, row_limit=60, max_name_column_width=90)
        (OUT / "profile.txt").write_text(
            f"{steps} steps of the package's loop, {wall:.3f} s with the profiler\n{table}\n"
        )
        kernels = [
            e
            for e in traced.events()
            if str(getattr(e, "device_type", "")).endswith("CUDA")
            and "#" not in e.name
            and not getattr(e, "is_user_annotation", False)
        ]
        if kernels:
            busy = sum(e.time_range.elapsed_us() for e in kernels) / 1e3
            small = [e for e in kernels if e.time_range.elapsed_us() < 5]
            tell(
                {
                    "profile": "training loop",
                    "kernels_per_step": round(len(kernels) / steps, 1),
                    "device_ms_per_step": round(busy / steps, 3),
                    "kernels_under_5us_per_step": len(small) / steps,
                    "their_ms_per_step": round(sum(e.time_range.elapsed_us() for e in small) / 1e3 / steps, 3),
                }
            )

    # the ceiling: forward, backward and a fused step on one resident batch
    def bare(self, kind):
        import torch.nn.functional as F

        torch, runtime = self.torch, self.runtime
        model = self.model().to(self.device).to(memory_format=torch.channels_last).train()
        x = torch.randn(
            self.batch, self.info.in_channels, self.info.image_size, self.info.image_size, device=self.device
        ).contiguous(memory_format=torch.channels_last)
        y = torch.randint(0, self.info.num_classes, (self.batch,), device=self.device)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )

        def loss_of(images, labels):
            with runtime.autocast():
                logits = model(images)
            return F.cross_entropy(logits.float(), labels)

        forward = torch.compile(loss_of, dynamic=False, backend=backend()) if kind == "compiled" else loss_of

        def step():
            forward(x, y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        began = time.perf_counter()
        for _ in range(3 if SMALL else 15):
            step()
        sync()
        warm, steps = round(time.perf_counter() - began, 1), 4 if SMALL else 100
        self.measured(
            f"bare step, {kind}",
            lambda: [step() for _ in range(steps)] and None,
            steps,
            steps * self.batch,
            warm_up_s=warm,
        )
        if not on_gpu():
            return
        began, stream = time.perf_counter(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        graph.replay()
        sync()
        warm = round(time.perf_counter() - began, 1)
        self.measured(
            f"bare step, {kind}, as a CUDA graph",
            lambda: [graph.replay() for _ in range(steps)] and None,
            steps,
            steps * self.batch,
            warm_up_s=warm,
        )

    def compiled_batches(self):
        torch, bank, augmentation = self.torch, self.bank, self.plugins.augmentation

        def make(indices):
            batch = bank.batch(indices, augmentation, 0, 3, 1)
            return batch.images, batch.labels

        fast = torch.compile(make, dynamic=False, fullgraph=True, backend=backend())
        indices = torch.randperm(len(bank), device=bank.store)[: self.batch]
        began = time.perf_counter()
        images, labels = fast(indices)
        sync()
        warm = round(time.perf_counter() - began, 1)
        expected = bank.batch(indices, augmentation, 0, 3, 1)
        same = bool(torch.equal(labels, expected.labels)), float((images - expected.images).abs().max())
        steps = 4 if SMALL else 200
        self.measured(
            "making batches, compiled",
            lambda: [fast(indices) for _ in range(steps)] and None,
            steps,
            steps * self.batch,
            warm_up_s=warm,
            same=same,
        )


def backend():
    return "aot_eager" if SMALL else "inductor"


def ignore(n=1):
    pass


@contextlib.contextmanager
def quiet(*_, **__):
    yield ignore


def bench():
    made = Bench()
    learner = None
    for what, work in (
        ("loop", lambda: made.loop()),
        ("bare eager", lambda: made.bare("eager")),
        ("host", lambda: made.loop(width=4)),
    ):
        with attempt(what):
            found = work()
            learner = found if what == "loop" else learner
    for what, work in (("parts", made.parts), ("waits", made.waits), ("profile", made.profile)):
        if learner is not None:
            with attempt(what):
                work(learner)
    for what, work in (
        ("bare compiled", lambda: made.bare("compiled")),
        ("loop compiled", lambda: made.loop(compiled=True)),
        ("batches compiled", made.compiled_batches),
    ):
        with attempt(what):
            work()


def notebook(workers):
    """An epoch as the reference notebooks have it: torchvision's transforms in a DataLoader, fp32, `.item()` a step."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader
    from torchvision import transforms as T

    from resnet_exp.config import build

    made = Bench()
    if made.info.in_channels != 3:
        raise SystemExit("the notebooks' transforms need colour images: set DATA")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    loaded = made.plugins.source.load(quiet)
    data = Pictures(
        loaded.train.images,
        loaded.train.labels,
        T.Compose(
            [
                T.RandomCrop(32, padding=4),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
                Cutout(8),
            ]
        ),
    )
    loader = DataLoader(data, made.batch, shuffle=True, num_workers=workers, pin_memory=on_gpu())
    model = build.model(made.config, made.info).to(made.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, epochs=24, steps_per_epoch=len(loader))
    x = torch.randn(made.batch, made.info.in_channels, 32, 32, device=made.device)
    for _ in range(1 if SMALL else 5):  # what cuDNN does once is not counted
        F.cross_entropy(model(x), torch.zeros(made.batch, dtype=torch.long, device=made.device)).backward()
    optimizer.zero_grad()
    sync()
    start, right, total = time.perf_counter(), 0, 0.0
    for images, labels in loader:
        images, labels = images.to(made.device), labels.to(made.device)
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        right += (logits.argmax(1) == labels).sum().item()
    sync()
    wall = time.perf_counter() - start
    tell(
        {
            "bench": f"notebook way, {workers} workers, fp32",
            "images_per_s": round(len(data) / wall),
            "epoch_s": round(wall, 2),
            "train_accuracy": round(right / len(data), 4),
            "numpy": np.__version__,
        }
    )


class Pictures:
    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class Cutout:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        import torch

        row, column = torch.randint(0, image.shape[1], (2,)).tolist()
        half = self.side // 2
        image[:, max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
        return image


def env():
    import numpy
    import torch
    import torchvision

    facts = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda,
        "cpus": len(os.sched_getaffinity(0)),
    }
    if on_gpu():
        p = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": p.name,
            "gib": round(p.total_memory / 2**30, 1),
            "sms": p.multi_processor_count,
            "cudnn": torch.backends.cudnn.version(),
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
        a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        for _ in range(3):
            a @ a
        sync()
        start = time.perf_counter()
        for _ in range(10):
            a @ a
        sync()
        facts["bf16_tflops"] = round(20 * 8192**3 / (time.perf_counter() - start) / 1e12)
        big = torch.empty(2**30, device="cuda", dtype=torch.float32).normal_()
        other = torch.empty_like(big)
        other.copy_(big)
        sync()
        start = time.perf_counter()
        for _ in range(10):
            other.copy_(big)
        sync()
        facts["copy_tb_s"] = round(10 * 2 * 4 * 2**30 / (time.perf_counter() - start) / 1e12, 2)
    tell(facts)


if __name__ == "__main__":
    command, rest = sys.argv[1], sys.argv[2:]
    if command == "run":
        run(rest[0], rest[1:])
    elif command == "many":
        groups, common = [], []
        for text in rest[1:]:
            if text == "--":
                groups.append([])
            else:
                (groups[-1] if groups else common).append(text)
        many(rest[0], [[*common, *group] for group in groups])
    elif command == "bench":
        bench()
    elif command == "notebook":
        notebook(int(rest[0]))
    elif command == "env":
        env()
    else:
        raise SystemExit(f"no part {command}")
