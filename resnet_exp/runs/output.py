"""`Output`: the standard output, which may go away while a run works; the run goes on, its journal has everything."""

from __future__ import annotations

import io
import os
import sys


class Output(io.TextIOBase):
    """The standard output of the moment; what it no longer takes is dropped.

    A terminal is closed, the program behind a pipe ends, the disk of a log is full: none of these is worth a run.
    """

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
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
