"""Saves and loads checkpoints, so that a kill at any moment or a flipped bit costs one checkpoint at most."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from resnet_exp.run_dir.files import write_durably

_KEEP = 2  # the last, and the one before it in case the last is damaged
_NAME = re.compile(r"epoch-(\d{5,})-([0-9a-f]{16})\.pt")
_log = logging.getLogger(__name__)


class Checkpoints:
    """The last two checkpoints of one run, each written to a temporary file, renamed, and named by its checksum."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, epoch: int, state: dict[str, Any]) -> Path:
        """Saves the state after `epoch` epochs, deletes older checkpoints, and returns the file."""
        # In memory first: the checksum, which the name contains, is one of the whole content.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        path = self.folder / f"epoch-{epoch:05d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        write_durably(path, content)
        self._prune()
        return path

    def latest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state whose checksum is right, on `device`; None if there is none."""
        for _, content in self._undamaged():
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        return None

    def latest_epoch(self) -> int:
        """The number of epochs trained in the state that `latest` returns; 0 if there is none."""
        for path, _ in self._undamaged():
            return int(path.stem.split("-")[1])
        return 0

    def _undamaged(self) -> Iterator[tuple[Path, bytes]]:
        """Yields path and content of undamaged files, the newest first; renames damaged ones."""
        for path in self._files():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] == path.stem.rpartition("-")[2]:
                yield path, content
            else:
                _log.warning("%s is damaged (its checksum differs); falling back to the checkpoint before it", path)
                # Under its old name it would count as one of the last two, and `_prune` delete a good one.
                path.rename(path.with_name(path.name + ".damaged"))

    def _files(self) -> list[Path]:
        found = [
            (int(match[1]), path) for path in self.folder.glob("epoch-*.pt") if (match := _NAME.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found, reverse=True)]  # by number: epoch 100000 has a digit more

    def _prune(self) -> None:
        for path in self._files()[_KEEP:]:
            path.unlink()
        for pattern in ("*.partial", "*.damaged"):  # left by a kill, or by a flipped bit
            for path in self.folder.glob(pattern):
                path.unlink()
