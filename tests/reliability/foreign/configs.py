"""Hostile configs, by the ways in which one comes: a yaml of `--config-dir`, a search path, a command line."""

from __future__ import annotations

import os
from collections.abc import Callable

from .witness import Case, World

Make = Callable[[World], tuple[str, ...]]

_TINY = (
    *("data=digits", "data.limit_train=300", "model.width=4", "train.epochs=1", "scheduler.peak_epoch=1"),
    *("train.batch_size=64",),
    *("scheduler.max_lr=0.05", "report=none"),
)
_ALONE = (*_TINY, "tracker=none")
_SWEEP = ("--multirun", *_ALONE, "train.label_smoothing=0,0.1")
_NAMED = "its code is run only where the command line names it"
_FILE_HANDLER = "{{version: 1, handlers: {{f: {{class: logging.FileHandler, filename: '{precious}', mode: w}}}}, root: {{level: INFO, handlers: [f]}}}}"  # noqa: E501


def _filled(world: World, text: str) -> str:
    places = {name: str(getattr(world, name)) for name in ("precious", "home", "evil", "canary", "port", "work")}
    return text.format(**places)


def experiment(text: str, *more: str, base: tuple[str, ...] = _ALONE) -> Make:
    """Chosen from a folder that `--config-dir` names."""

    def make(world: World) -> tuple[str, ...]:
        world.write("D/experiment/bad.yaml", f"# @package _global_\n{_filled(world, text)}\n")
        return ("--config-dir", "D", "experiment=bad", *base, *(_filled(world, one) for one in more))

    return make


def primary(text: str, *more: str, base: tuple[str, ...] = _ALONE) -> Make:
    """Named by `--config-name`."""

    def make(world: World) -> tuple[str, ...]:
        world.write("D/bad.yaml", f"defaults: [config, _self_]\n{_filled(world, text)}\n")
        return ("--config-dir", "D", "--config-name", "bad", *base, *(_filled(world, one) for one in more))

    return make


def searched(text: str, *more: str) -> Make:
    """Chosen from a folder of Hydra's search path, which the primary config of somebody else names."""

    def make(world: World) -> tuple[str, ...]:
        world.write("far/experiment/bad.yaml", f"# @package _global_\n{_filled(world, text)}\n")
        world.write("D/bad.yaml", f"defaults: [config, _self_]\nhydra: {{searchpath: ['file://{world.work}/far']}}\n")
        return ("--config-dir", "D", "--config-name", "bad", "experiment=bad", *_ALONE, *more)

    return make


def typed(*arguments: str, base: tuple[str, ...] = _ALONE) -> Make:
    """On the command line itself, as somebody's instructions may say."""
    return lambda world: (*base, *(_filled(world, one) for one in arguments))


def _path_of_git(world: World) -> tuple[str, ...]:
    git = world.home / "bin" / "git"
    git.write_text(f"#!/bin/sh\ntouch {world.canary}\n")
    git.chmod(0o755)
    return experiment("hydra: {{job: {{env_set: {{PATH: '{home}/bin'}}}}}}")(world)


def _pipe(world: World) -> tuple[str, ...]:
    os.mkfifo(world.evil / "pipe.py")
    return typed("plugins={evil}")(world)


def _huge(world: World) -> tuple[str, ...]:
    with (world.evil / "huge.py").open("wb") as file:
        file.truncate(1 << 38)
    return typed("plugins={evil}")(world)


def _circles(world: World) -> tuple[str, ...]:
    for name in ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"):
        (world.evil / name).mkdir()
        (world.evil / name / "__init__.py").touch()
    for name in "abcdefghij":
        for other in "abcdefghij":
            (world.evil / name / f"to_{other}").symlink_to(world.evil / other)
    return typed("plugins={evil}", "model._target_=a.os.system")(world)


def _launcher(name: str, setting: str) -> Make:
    """A sweep that the user starts, with an experiment that brings its own launcher."""
    text = f"defaults: [{{{{override /hydra/launcher: {name}}}}}]\nhydra: {{{{launcher: {{{{{setting}}}}}}}}}"
    return experiment(text, base=_SWEEP)


def _tracker(world: World) -> tuple[str, ...]:
    """An option of a group, which the user chooses by its name."""
    uri = f"http://127.0.0.1:{world.port}/${{oc.env:USERS_SECRET}}"
    world.write(
        "D/tracker/bad.yaml", f"_target_: resnet_exp.tracking.mlflow.MlflowTracker\nuri: {uri}\nexperiment: x\n"
    )
    return ("--config-dir", "D", "tracker=bad", *_TINY)


def _swept_plugins(world: World) -> tuple[str, ...]:
    text = _filled(world, "hydra: {{sweeper: {{params: {{plugins: '{evil}', model._target_: 'evil_code.Net,x.Y'}}}}}}")
    world.write("D/sweep/bad.yaml", f"# @package _global_\ndefaults: [default]\n{text}\n")
    return ("--config-dir", "D", "sweep=bad", *_ALONE, "train.label_smoothing=0,0.1")


_PLUGINS = (
    Case("plugins in an experiment", experiment("plugins: '{evil}'\nmodel: {{_target_: evil_code.Net}}"), _NAMED),
    Case("a list of plugins", experiment("plugins: ['{evil}']\nmodel: {{_target_: evil_code.Net}}"), _NAMED),
    Case("plugins in the primary config", primary("plugins: '{evil}'", "model=bad"), _NAMED),
    Case("plugins on a search path", searched("plugins: '{evil}'\nmodel: {{_target_: evil_code.Net}}"), _NAMED),
    Case("plugins for a metric", experiment("plugins: '{evil}'\nmetrics: [evil_code.Net]"), _NAMED),
    Case("plugins for a figure", experiment("plugins: '{evil}'\nreport: {{extra: [evil_code.draw]}}"), _NAMED),
    Case("plugins for a sweeper", experiment("plugins: '{evil}'\nhydra: {{sweeper: {{_target_: evil_code.Net}}}}",
                                              base=_SWEEP), _NAMED),
    Case("plugins by a reference", experiment("plugins: ${{name}}\nname: evil"), _NAMED),
    Case("plugins appended to those of a yaml", experiment("plugins: ['{evil}']\nmodel: {{_target_: evil_code.Net}}",
         "plugins=extend_list('{work}')"), _NAMED),
    Case("plugins said to have been typed", experiment("hydra: {{overrides: {{task: ['plugins={evil}']}}}}\n"
         "plugins: '{evil}'\nmodel: {{_target_: evil_code.Net}}"), "a yaml says that plugins="),
    Case("said so by the primary config", primary("hydra: {{overrides: {{task: ['plugins={evil}']}}}}"),
         "a yaml says that plugins="),
    Case("plugins swept over by a yaml", _swept_plugins, "set once for the whole sweep"),
    Case("another key that means plugins", primary("hydra: {{aliases: {{data.image_size: plugins}}}}",
         "data.image_size='{evil}'"), "hydra.aliases: a key that you type would set another one"),
    Case("the root as a folder of plugins", typed("plugins=/"), "files are in it; give your plug-ins one of their own"),
    Case("a pipe among plugins", _pipe, "pipe.py is no file; take it out of the folder"),
    Case("a huge module", _huge, "huge.py has 274,877,906,944 bytes; take it out"),
    Case("links in circles", _circles, "model._target_=a.os.system: a name in"),
)  # fmt: skip
_IN = ": a name in resnet_exp."
_TARGETS = (
    Case("os.system by yaml", experiment("model: {{_target_: os.system, command: 'touch {canary}'}}"), _IN),
    Case("os.system typed", typed("model._target_=os.system"), _IN),
    Case("exec as an optimizer", experiment("optimizer: {{_target_: builtins.exec}}"), _IN),
    Case("eval as a scheduler", typed("scheduler._target_=builtins.eval"), _IN),
    Case("Popen as data", experiment("data: {{_target_: subprocess.Popen, args: [touch, '{canary}']}}"), _IN),
    Case("torch.load as an augmentation", experiment("augmentation: {{_target_: torch.load, f: x}}"), _IN),
    Case("hub as a model", experiment("model: {{_target_: torch.hub.load}}"), _IN),
    Case("rmtree as a tracker", experiment("tracker: {{_target_: shutil.rmtree, path: '{home}'}}", base=_TINY), _IN),
    Case("through our own package", typed("model._target_=resnet_exp.models.resnet.nn.Module"), _IN),
    Case("Hydra's own instantiate", typed("model._target_=hydra.utils.instantiate"), _IN),
    Case("of another group", typed("model._target_=resnet_exp.data.decode_cache.store"), _IN),
    Case("a target in a value", experiment("optimizer: {{weight_decay: {{_target_: os.system, command: 'x'}}}}"),
         "_target_ is not allowed"),
    Case("a partial", experiment("model: {{_partial_: true}}"), "_partial_ is not allowed"),
    Case("a reference to the environment", experiment("optimizer: {{weight_decay: '${{oc.env:HOME}}'}}"),
         "a yaml reads more than other keys"),
    Case("a metric", typed("metrics=[os.system]"), "MODULE.NAME is needed"),
    Case("a figure", experiment("report: {{extra: [os.system]}}"), "MODULE.NAME is needed"),
)  # fmt: skip
_ONLY = "logging.StreamHandler or logging.NullHandler is needed"
_HYDRA = (
    Case("a callback that empties a file",
         experiment("hydra: {{callbacks: {{x: {{_target_: logging.FileHandler, filename: '{precious}', mode: w}}}}}}"),
         "hydra.callbacks="),
    Case("a callback, typed", typed("+hydra.callbacks.x._target_=os.system"), "hydra.callbacks="),
    Case("a callback that is taken out", experiment("hydra: {{callbacks: {{sweep: null}}}}", base=_SWEEP),
         "hydra.callbacks="),
    Case("a log that empties a file", experiment(f"hydra: {{{{job_logging: {_FILE_HANDLER}}}}}"), _ONLY),
    Case("Hydra's log that empties a file", experiment(f"hydra: {{{{hydra_logging: {_FILE_HANDLER}}}}}"), _ONLY),
    Case("the same under --help",
         experiment(f"hydra: {{{{hydra_logging: {_FILE_HANDLER}}}}}", "--help"), _ONLY),
    Case("a handler, typed", typed("hydra.job_logging.handlers.stderr.class=logging.FileHandler",
         "+hydra.job_logging.handlers.stderr.filename={precious}"), "hydra.job_logging.handlers.stderr"),
    Case("Hydra's option with a file", typed("hydra/job_logging=default"), "hydra.job_logging.handlers.file"),
    Case("a handler with a connection", experiment("hydra: {{job_logging: {{handlers: {{stderr: {{class: "
         "logging.handlers.SocketHandler, host: 127.0.0.1, port: {port}}}}}}}}}"), "hydra.job_logging.handlers.stderr"),
    Case("a factory", experiment("hydra: {{job_logging: {{formatters: {{short: {{'()': os.system, "
         "command: 'touch {canary}'}}}}}}}}"), "hydra.job_logging.formatters.short.(): it is not allowed"),
    Case("an object as a stream", experiment("hydra: {{job_logging: {{handlers: {{stderr: {{stream: "
         "ext://os.environ}}}}}}}}"), "ext://sys.stdout or ext://sys.stderr is needed"),
    Case("a filter", experiment("hydra: {{job_logging: {{filters: {{x: {{'()': os.system}}}}}}}}"),
         "hydra.job_logging.filters.x: it is not allowed"),
    Case("a format that reaches into objects", experiment("hydra: {{job_logging: {{formatters: {{short: {{style: "
         "'{{'}}}}}}}}"), "style % or $ is needed"),
    Case("a sweeper", typed("hydra.sweeper._target_=os.system", base=_SWEEP), "hydra.sweeper._target_=os.system"),
    Case("a launcher", typed("hydra.launcher._target_=os.system", base=_SWEEP), "hydra.launcher._target_=os.system"),
    Case("a sampler", typed("hydra/sweeper=optuna", "hydra.sweeper.sampler._target_=os.system", base=_SWEEP),
         "hydra.sweeper.sampler"),
    Case("a search space", experiment("defaults: [{{override /hydra/sweeper: optuna}}]\n"
         "hydra: {{sweeper: {{custom_search_space: os.system}}}}", base=_SWEEP), "custom_search_space would be run"),
    Case("a target in a sweeper's setting", typed("+hydra.sweeper.x={{_target_: os.system}}", base=_SWEEP),
         "nothing else can be made here"),
    Case("shell commands of a launcher", _launcher("submitit_local", "setup: ['touch {canary}']"),
         "hydra.launcher.setup="),
    Case("a program of a launcher", _launcher("submitit_local", "submitit_folder: '{home}'"),
         "hydra.launcher.submitit_folder="),
    Case("a line of a Slurm script", _launcher("submitit_slurm", 'partition: "x\\ntouch {canary}"'),
         "hydra.launcher.partition="),
    Case("a cluster of somebody else's", _launcher("ray", "ray: {{init: {{address: '127.0.0.1:{port}'}}}}"),
         "hydra.launcher.ray="),
    Case("a folder of a launcher's", _launcher("joblib", "temp_folder: '{home}'"), "hydra.launcher.temp_folder="),
    Case("another PATH", _path_of_git, "hydra.job.env_set.PATH: a yaml sets it"),
    Case("another PYTHONPATH", experiment("hydra: {{job: {{env_set: {{PYTHONPATH: '{evil}'}}}}}}"),
         "hydra.job.env_set.PYTHONPATH: a yaml sets it"),
    Case("a copied variable", experiment("hydra: {{job: {{env_copy: [USERS_SECRET]}}}}\ntracker: {{uri: "
         "'http://127.0.0.1:{port}/${{hydra:job.env_set.USERS_SECRET}}'}}", base=_TINY), "hydra.job.env_copy="),
    Case("a variable in an address", experiment("tracker: {{uri: 'http://127.0.0.1:{port}/${{oc.env:USERS_SECRET}}'}}",
         base=_TINY), "a yaml reads more than other keys"),
    Case("the same in an option", _tracker, "a yaml reads more than other keys"),
    Case("the same, hidden", primary("name: oc\ntracker: {{uri: "
         "'http://127.0.0.1:{port}/${{${{name}}.env:USERS_SECRET}}'}}", base=_TINY),
         "a yaml reads more than other keys"),
    Case("another working directory", experiment("hydra: {{job: {{chdir: true}}, run: {{dir: '{home}'}}}}"),
         "hydra.job.chdir=true would move the run"),
    Case("another place of Hydra's", experiment("hydra: {{output_subdir: '{home}/x'}}"), "hydra.output_subdir="),
)  # fmt: skip
CASES = tuple(case for trio in zip(_PLUGINS, _TARGETS, _HYDRA, strict=False) for case in trio)
CASES += tuple(case for case in (*_PLUGINS, *_TARGETS, *_HYDRA) if case not in CASES)
