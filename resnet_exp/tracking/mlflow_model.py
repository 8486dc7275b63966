"""The trained network as an MLflow model folder, without pickle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_exp.run_dir.files import check_room, folder_written_durably

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from torch import nn

_AROUND = 8 << 20  # bytes: the graph, and the example of an input as text


def export_network(model: nn.Module, example_shape: tuple[int, int, int], path: Path) -> Path:
    """Writes an MLflow model folder with the network's graph and weights, and returns its path.

    The network is traced with `torch.export` on the CPU, in eval mode, for any batch size; `model` itself does not
    change. `mlflow.pytorch.load_model(path)` gives it back without the code of its class, and without pickle;
    `mlflow.pyfunc.load_model(path).predict` takes float32 arrays, and `mlflow models serve` the same as lists.

    Args:
        model: Maps images `[N, C, H, W], float32`, normalised, to logits `[N, classes]`.
        example_shape: C, H, W of one image.
        path: The folder to write; one that is there is replaced.

    Raises:
        Unwritable: There is no room for it.
    """
    import numpy as np
    import torch

    from resnet_exp.tracking.mlflow_store import import_mlflow

    import_mlflow()
    import mlflow.pytorch

    network = _portable_copy(model)
    # Two images: the exporter would take a batch of one for a constant.
    example = np.zeros((2, *example_shape), dtype=np.float32)
    with torch.no_grad():
        num_classes = network(torch.from_numpy(example)).shape[1]
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    # torch's writer of archives ends the whole process where the disk is full.
    check_room(path.parent, weights * 5 // 4 + _AROUND)
    with folder_written_durably(path) as partial:
        mlflow.pytorch.save_model(
            network,
            str(partial),
            signature=_signature(example_shape, num_classes),
            input_example=example,
            serialization_format="pt2",
            # Given, because finding them out loads the model in another process for many seconds.
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__.split('+')[0]}", "numpy"],
        )
    return path


def _portable_copy(model: nn.Module) -> nn.Module:
    """A plain float32 copy on the CPU, in eval mode, with contiguous weights."""
    import torch

    network = copy.deepcopy(model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    return network.eval().requires_grad_(False)


def _signature(example_shape: tuple[int, int, int], num_classes: int) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # Without a name: MLflow would hand a named input to the network as a mapping, which its PyTorch flavor refuses.
    image = TensorSpec(np.dtype(np.float32), (-1, *example_shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, num_classes), "logits")
    return ModelSignature(inputs=Schema([image]), outputs=Schema([logits]))
