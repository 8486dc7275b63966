"""Checkpoints that survive a kill at any moment and a flipped bit."""

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

_KEEP = 2
_NAME = re.compile(r"epoch-(\d{5})-([0-9a-f]{16})\.pt")
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run: written aside, flushed, renamed; each named after its checksum; the last two kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, epoch: int, state: dict[str, Any]) -> Path:
        """The file that now holds the state after `epoch` epochs."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        path = self.folder / f"epoch-{epoch:05d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        write_durably(path, content)
        self._prune()
        return path

    def latest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state whose bytes are those written, on `device`; None where there is none."""
        for _, content in self._undamaged():
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        return None

    def latest_epoch(self) -> int:
        """The epochs done in the state that `latest` returns; 0 where there is none."""
        for path, _ in self._undamaged():
            return int(path.stem.split("-")[1])
        return 0

    def _undamaged(self) -> Iterator[tuple[Path, bytes]]:
        """The sound files, the newest first. Damaged ones are set aside: kept, they would crowd out sound ones."""
        for path in self._files():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] == path.stem.rpartition("-")[2]:
                yield path, content
            else:
                _log.warning("%s is damaged (its checksum differs); falling back to the checkpoint before it", path)
                path.rename(path.with_name(path.name + ".damaged"))

    def _files(self) -> list[Path]:
        found = [path for path in self.folder.glob("epoch-*.pt") if _NAME.fullmatch(path.name)]
        return sorted(found, reverse=True)

    def _prune(self) -> None:
        for path in self._files()[_KEEP:]:
            path.unlink()
        for pattern in ("*.partial", "*.damaged"):  # what a kill left behind, and a flipped bit
            for path in self.folder.glob(pattern):
                path.unlink()
