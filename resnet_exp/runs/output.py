"""`Output`: the standard output, which may go away while a run works; the run goes on, its journal has everything.

What is printed or logged, by whichever library, has no secrets, see `redact_output`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from typing import Any, TextIO

from resnet_exp.config.redact import redact


class Output(io.TextIOBase):
    """The standard output of the moment; what it no longer takes is dropped.

    A terminal is closed, the program behind a pipe ends, the disk of a log is full: none of these is worth a run.
    """

    def __init__(self) -> None:
        if hasattr(sys.stdout, "reconfigure") and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show costs no run

    @property
    def encoding(self) -> str:  # type: ignore[override]  # rich asks which characters can be shown
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        return sys.stdout is not None and sys.stdout.isatty()

    def fileno(self) -> int:
        """The descriptor, of which rich asks the width."""
        if sys.stdout is None:
            raise OSError("there is no standard output")
        return sys.stdout.fileno()

    def write(self, text: str) -> int:
        """Writes the text, or drops it; returns its length."""
        try:
            if sys.stdout is not None:
                sys.stdout.write(text)
        except OSError:
            _drop_the_rest()
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered, or drops it."""
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:
            _drop_the_rest()


def redact_output() -> None:
    """Strikes secrets out of all that this process prints or logs from here on; a second time it does nothing.

    Tracebacks that nobody catches are printed too. Records are looked at where they are made: filters of the root
    logger do not see those of other loggers, and handlers may be added later.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Redacting):
            setattr(sys, name, _Redacting(stream))
    make = logging.getLogRecordFactory()
    if not getattr(make, "redacts", False):
        logging.setLogRecordFactory(_RedactedRecords(make))


class _Redacting(io.TextIOBase):
    """A stream whose texts have no secrets; in all else it is the stream that it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Does nothing: the stream is the interpreter's to close."""

    def reconfigure(self, **settings: Any) -> None:
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(**settings)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    @property
    def buffer(self) -> Any:
        return self._stream.buffer


class _RedactedRecords:
    """Makes log records whose message and traceback have no secrets."""

    redacts = True

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*arguments, **named)
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit: logging itself reports it, where the record is shown
            return record
        if (safe := redact(message)) != message:  # else it stays as it is: some handlers look at its arguments
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
        return record


def fill_closed_descriptors() -> None:
    """Opens the null device where standard input, output or error is closed.

    The next file that is opened would get its number otherwise, and what libraries print would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


def _drop_the_rest() -> None:
    """Points the descriptor at the null device: else Python's own flush at the exit would fail, with exit code 120."""
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())
