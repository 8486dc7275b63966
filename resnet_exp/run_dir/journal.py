"""The journal of a run: one JSON line per thing that happened, appended and never changed.

It is the truth about a run; trackers mirror it and reports read it. It holds neutral facts: what a tracker calls them
is the tracker's own business. A run that is killed loses at most the line it was writing.

Its first line, which is no record, says whose journal it is. Each line ends with a checksum of itself and of that, so
that a flipped bit, an edit, or a line of another run is noticed. Journals that begin without such a line were written
before there were any; they are read as they are.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from resnet_exp.config.redact import redacted
from resnet_exp.run_dir.files import Damaged, sha256_of, unwritable

if TYPE_CHECKING:
    from typing_extensions import Self

STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
# JSON has no such numbers. Their names, as strings, stay valid JSON, and float() reads them back.
_NON_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
_HEADER, _FORMAT = "journal", 2  # the first line's kind; the format of the lines, of which 1 had no checksums
_CHECK = re.compile(rb',"check":"([0-9a-f]{8})"}\n\Z')
_RESERVED = 8192  # bytes
_IMAGE_KEY = r"[A-Za-z0-9_\-./ ]+"  # what every tracker takes


class Journal:
    """Appends records to `path`; a last line torn by a kill is cut off when an existing journal is opened.

    Args:
        path: of the file.
        of: whose journal it is, such as the run's signature; of one that exists its first line says it.

    Raises:
        Damaged: that line is damaged.
        Unwritable: there is no room for a journal.
    """

    def __init__(self, path: Path, of: str = "") -> None:
        self.path = path
        self._reserve = path.with_name(".reserve")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Not through a link, which in a directory of somebody else's may lead anywhere.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
            os.ftruncate(self._file, _end_of_last_line(self._file))
            # Given back for the status of a run that ends because the disk is full. Random, or it may take no room.
            self._reserve.unlink(missing_ok=True)
            self._reserve.write_bytes(os.urandom(_RESERVED))
        except OSError as error:
            raise unwritable(path, error, _RESERVED) from error
        self._of: str | None = of  # None: a journal without checksums
        if os.fstat(self._file).st_size == 0:
            self._append(_HEADER, format=_FORMAT, of=of, id=uuid.uuid4().hex)
        else:
            header = header_of(path)
            self._of = None if header is None else header["of"]

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Records the values of some metrics at one step; NaN and the infinities included."""
        if values:
            self._append("metrics", step=int(step), values={key: _to_json(value) for key, value in values.items()})

    def params(self, values: dict[str, Any]) -> None:
        """Records parameters, flat, as JSON values; what JSON does not know as text."""
        self._append("params", values={key: _plain(value) for key, value in values.items()})

    def tags(self, values: dict[str, Any]) -> None:
        """Records tags as text; a later value of the same tag replaces the earlier one.

        Trackers know these: `command`, `git_commit`, `description` (Markdown: how the run went, then its command) and
        `parent` (of a job of a sweep: the directory of the sweep, whose own run is the parent of this one).
        """
        self._append("tags", values={key: str(value) for key, value in values.items()})

    def dataset(self, *, name: str, digest: str, context: str, num_rows: int, class_names: Sequence[str]) -> None:
        """Records one split of the data.

        Args:
            name: Of the data set, the same for all its splits.
            digest: Changes when the images or the labels do.
            context: What the split was used for: train, val or test.
            num_rows: Images in the split.
            class_names: In label order.
        """
        self._append(
            "dataset", name=name, digest=digest, context=context, num_rows=num_rows, class_names=list(class_names)
        )

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Records that a file or folder of the run directory is complete and is to be mirrored into `folder`.

        Args:
            path: Relative to the run directory, or beginning with it.
            folder: Where the tracker puts the file, or what the folder holds; at the top if empty.

        Raises:
            ValueError: The path leads out of the run directory.
        """
        inside = self._inside(path)
        file = self.path.parent / inside
        # What is read back is verified by it. Folders are for people and trackers.
        digest = {"sha256": sha256_of(file)} if file.is_file() else {}
        self._append("artifact", path=inside, folder=folder, **digest)

    def model(self, path: Path | str) -> None:
        """Records that the network, exported in the form that the run's tracker asks for, is complete.

        Raises:
            ValueError: The path leads out of the run directory.
        """
        self._append("model", path=self._inside(path))

    def image(self, path: Path | str, key: str, step: int = 0) -> None:
        """Records that a PNG of the run directory is complete, and what runs are compared by.

        Args:
            path: Relative to the run directory, or beginning with it.
            key: The same in the runs to compare. A later image of the same key and step replaces the earlier one.
            step: Where the comparison's slider finds it; the slider starts at 0.

        Raises:
            ValueError: The path leads out of the run directory or is no PNG's, or the key has other characters than
                letters, digits, blanks and any of `_-./`.
        """
        if Path(path).suffix != ".png" or not re.fullmatch(_IMAGE_KEY, key):
            raise ValueError(f"path={str(path)!r}, key={key!r}: a .png and a key of letters, digits, _-./ are needed")
        self._append("image", path=self._inside(path), key=key, step=int(step))

    def table(self, path: Path | str) -> None:
        """Records that a JSON file of `columns` and `data`, a list of rows, is complete, and what runs are compared by.

        Raises:
            ValueError: The path leads out of the run directory or is no JSON's.
        """
        if Path(path).suffix != ".json":
            raise ValueError(f"path={str(path)!r}: a .json file is needed")
        self._append("table", path=self._inside(path))

    def children(self, labels: Mapping[Path, str]) -> None:
        """Records run directories as parts of this run, those of a sweep, each with what distinguishes it."""
        root = self.path.parent  # relative to it: a project may be moved as a whole
        self._append("children", labels={os.path.relpath(path, root): label for path, label in labels.items()})

    def event(self, name: str, **fields: Any) -> None:
        """Records something that happened, with JSON fields; trackers do not show it."""
        self._append("event", name=name, fields=fields)

    def last_event(self, name: str, **fields: Any) -> None:
        """Records, in the room kept for that, something that happened because the disk is full."""
        self._append_at_last("event", name=name, fields=fields)

    def rewind(self, step: int) -> None:
        """Records that metrics recorded so far with a later step are void: what follows does those steps again.

        Args:
            step: The last step that counts.
        """
        self._append("rewind", step=int(step))

    def status(self, status: str, reason: str | None = None) -> None:
        """Records the run's status, safe from a power cut: RUNNING, FINISHED, FAILED or KILLED.

        Raises:
            ValueError: Another status.
        """
        if status not in STATUSES:
            raise ValueError(f"status={status!r}: one of {', '.join(STATUSES)} is needed")
        self._append_at_last("status", status=status, reason=reason)
        self.flush()

    def flush(self) -> None:
        """Makes all that was recorded so far safe from a power cut, before anything is saved that relies on it."""
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            with suppress(OSError):
                self._reserve.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inside(self, path: Path | str) -> str:
        root, given = self.path.parent, Path(path)
        if given.is_relative_to(root):  # both may be relative to the current directory
            given = given.relative_to(root)
        root = root.resolve()
        full = (root / given).resolve()
        if not full.is_relative_to(root):
            raise ValueError(f"path={str(path)!r}: only files of the run directory {root} can be mirrored")
        return full.relative_to(root).as_posix()

    def _append_at_last(self, kind: str, **fields: Any) -> None:
        """Appends a record, in the room that is kept if there is no other."""
        try:
            self._append(kind, **fields)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            self._append(kind, **fields)

    def _append(self, kind: str, **fields: Any) -> None:
        record = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields}
        if kind != "metrics":  # which are many, and have numbers alone
            record = redacted(record)
        line = _line(record, self._of)
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise unwritable(self.path, error, len(line)) from error
        if written != len(line):  # a full disk: leave no half line for the next record to be glued to
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise unwritable(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), len(line))


def read(path: Path) -> list[dict[str, Any]]:
    """All complete records of a journal, oldest first; none where there is no file yet.

    Raises:
        Damaged: a line that is no record, or whose checksum is wrong.
    """
    return [record for record, _ in read_from(path, 0)]


def read_from(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The complete records from a byte offset on, each with the offset of the byte after it.

    Raises:
        Damaged: a line that is no record, or whose checksum is wrong.
    """
    header = header_of(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return  # being written, or torn by a kill
            record = _parse(line, path, offset, None if header is None else header["of"])
            offset += len(line)
            if record["kind"] != _HEADER:
                yield record, offset


def header_of(path: Path) -> dict[str, Any] | None:
    """The first line of a journal: `of` says whose it is, and `id` is another one in each journal.

    None where there is no journal, nothing in it yet, or one that was written before there were such lines.

    Raises:
        Damaged: it is no record, or its checksum is wrong.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    if not _CHECK.search(line):
        if _parse(line, path, 0, None)["kind"] == _HEADER:
            raise _damaged(path, 0, "it has no checksum")
        return None
    try:
        of = str(json.loads(line)["of"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, 0, error) from error
    return _parse(line, path, 0, of)


def metric_values(record: dict[str, Any]) -> dict[str, float]:
    """The values of a metrics record as floats, the non-finite ones too."""
    return {key: float(value) for key, value in record["values"].items()}


def same_value(a: float, b: float) -> bool:
    """Whether two metric values are the same, NaN being the same as NaN."""
    return a == b or (math.isnan(a) and math.isnan(b))


def metric_history(source: Path | Iterable[dict[str, Any]]) -> dict[str, list[tuple[int, float, int]]]:
    """Every metric's points `(step, value, time in epoch ms)` by step; rewound points do not count.

    The last value of a step counts. A step that was done again with the same value keeps its first time, as in
    the trackers, which cannot take a point back.
    """
    points: dict[tuple[str, int], tuple[float, int]] = {}
    void: set[tuple[str, int]] = set()
    for record in read(source) if isinstance(source, Path) else source:
        if record["kind"] == "metrics":
            for key, value in metric_values(record).items():
                point = (key, record["step"])
                void.discard(point)
                if point not in points or not same_value(points[point][0], value):
                    points[point] = (value, record["time_ms"])
        elif record["kind"] == "rewind":
            void |= {point for point in points if point[1] > record["step"]}
    history: dict[str, list[tuple[int, float, int]]] = {}
    for key, step in sorted(points.keys() - void):
        history.setdefault(key, []).append((step, *points[key, step]))
    return history


def child_labels(record: dict[str, Any], root: Path) -> dict[Path, str]:
    """The run directories that a record of children names, with their labels; `root` holds the journal."""
    return {Path(os.path.normpath(root / path)): label for path, label in record["labels"].items()}


def last_status(source: Path | Iterable[dict[str, Any]]) -> str | None:
    """The status recorded last, or None."""
    records = read(source) if isinstance(source, Path) else source
    return next((r["status"] for r in reversed(list(records)) if r["kind"] == "status"), None)


def began_with(records: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The environment that a run began with, as environment.json has it."""
    return next((one["fields"] for one in records if one["kind"] == "event" and one["name"] == "environment"), None)


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return _to_json(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _to_json(value: float) -> float | str:
    number = float(value)
    return "NaN" if math.isnan(number) else _NON_FINITE.get(number, number)


def _line(record: dict[str, Any], of: str | None) -> bytes:
    """The record as a line; with `of` it ends with its checksum."""
    text = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    return text + b"\n" if of is None else text[:-1] + b',"check":"%08x"}\n' % _checksum(text[:-1], of)


def _checksum(text: bytes, of: str) -> int:
    return zlib.crc32(text, zlib.crc32(of.encode()))


def _parse(line: bytes, path: Path, start: int, of: str | None) -> dict[str, Any]:
    """The record in a line of the journal.

    Args:
        line: with its end.
        path: of the journal.
        start: the byte that the line begins at.
        of: whose journal it is; None where lines have no checksums.
    """
    check = _CHECK.search(line)
    if (check is None) != (of is None):
        raise _damaged(path, start, "it has no checksum" if check is None else "the journal's first line is missing")
    if check is not None and int(check[1], 16) != _checksum(line[: check.start()], of or ""):
        raise _damaged(path, start, "its checksum is wrong")
    try:
        record: dict[str, Any] = json.loads(line)
        record["kind"], record["time_ms"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, start, error) from error
    record.pop("check", None)
    return record


def _damaged(path: Path, start: int, reason: object) -> Damaged:
    with path.open("rb") as file:
        number = 1 + file.read(start).count(b"\n")
    return Damaged(
        f"{path}: line {number}, which begins at byte {start}, is damaged ({reason}). rerun=true makes a new run "
        "beside this one; or move that file away: the run's command goes on from its checkpoint, with a new journal"
    )


def _end_of_last_line(file: int) -> int:
    """The byte after the last newline, searched from the end in blocks."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
