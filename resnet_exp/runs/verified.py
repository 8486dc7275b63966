"""The signature of a run, made of images that were read again where something stored is about to be used."""

from __future__ import annotations

from collections.abc import Callable

from resnet_exp.config.config import Config
from resnet_exp.data.identity import read_identity
from resnet_exp.interfaces import DataSource
from resnet_exp.run_dir.directory import is_begun
from resnet_exp.runs.console import Console


def verified_signature(config: Config, source: DataSource, sign: Callable[[str], str], console: Console) -> str:
    """The signature of a run; if one of this signature was started before, all images are read once more first.

    So a finished run is printed again, continued or repeated (`rerun=true`) only on the very images that it began with.

    Args:
        config: of the run.
        source: its images.
        sign: makes the signature from the identity of the images.
        console: shows the progress of reading.
    """
    found = sign(read_identity(source, console.progress))
    if is_begun(config.output_dir, config.title, found):
        found = sign(read_identity(source, console.progress, verify=True))
    return found
