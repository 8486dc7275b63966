"""What a checkpoint costs: the seconds of a save, as a share of an epoch and of the interval between two saves.

    python benchmarks/checkpoint_cost.py [width] [batch] [steps] [saves]

The custom ResNet with SGD on random images of the size of CIFAR-10; an epoch's 50,000 images are extrapolated from
a few steps. A save is all that the loop waits for: the check for what is not finite, the state, its checksum, the file
on the disk and read back; the folder is made in the current directory.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from resnet_exp.config.schema import TrainConfig
from resnet_exp.config.validation import VALIDATION
from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import Schedule
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.training.device import start_runtime
from resnet_exp.training.evaluate import evaluate
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner
from resnet_exp.training.train import Trained

_IMAGES, _CLASSES, _SIDE = 50_000, 10, 32
_INTERVAL = 30.0  # conf/train/default.yaml


def main(width: int = 64, batch_size: int = 512, steps: int = 2, saves: int = 5) -> None:
    """Prints the seconds of an epoch and of a save, and the shares."""
    runtime = start_runtime("auto", "auto", False)
    settings = TrainConfig(1, batch_size, runtime.precision, True, 0.0, None, 1, False, _INTERVAL)
    schedule = Schedule((0.01,) * (steps + 1), None, 0.01, 0.01)
    model = CustomResNet(num_classes=_CLASSES, in_channels=3, image_size=_SIDE, width=width)
    learner = Learner(model, sgd(), schedule, settings, runtime, 0)
    images = torch.randn(batch_size, 3, _SIDE, _SIDE).contiguous(memory_format=torch.channels_last)
    batch = Batch(images.to(runtime.device), torch.arange(batch_size, device=runtime.device) % _CLASSES)

    learner.train([batch], 0, lambda n=1: None)
    learner.check()
    start = time.perf_counter()
    done = learner.train([batch] * steps, 1, lambda n=1: None)
    learner.check()
    epoch = (time.perf_counter() - start) / steps * _IMAGES / batch_size

    trained = Trained(begun=done, seconds=epoch)
    measured = evaluate(torch.eye(_CLASSES), torch.arange(_CLASSES))
    trained.complete(learner, (measured, None), VALIDATION["holdout"])  # the best weights are saved too
    seconds = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        keeping = Keeping(Checkpoints(Path(folder), "benchmark"), _INTERVAL, lambda: None, lambda: False, sys.exit)
        for number in range(saves):
            start = time.perf_counter()
            learner.check()
            keeping.save(1, number, trained.state_dict(learner))
            seconds.append(time.perf_counter() - start)
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    save, deviation = statistics.mean(seconds), statistics.stdev(seconds)
    # At most one an interval: of short epochs most have none.
    share = save / max(epoch, _INTERVAL)
    print(f"{runtime.device_name}, width {width}, batches of {batch_size}: an epoch takes {epoch:.1f} s")
    print(f"a checkpoint of {size / 1e6:.1f} MB takes {save:.3f} s (n = {saves}, deviation {deviation:.3f})")
    print(f"one an epoch: {save / epoch:.2%} of it; at most one each {_INTERVAL:g} s, as is the default: {share:.2%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
