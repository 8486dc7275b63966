"""Printing on the terminal: facts, progress with an ETA; plain lines where the output is not a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, cast

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resnet_exp.interfaces import Advance
from resnet_exp.runs.output import Output
from resnet_exp.runs.signals import last_words
from resnet_exp.runs.stuck import told_when_stuck

_KEY_WIDTH = 13
# Seconds between lines of progress where the output is not a terminal.
_PLAIN_INTERVAL = 15.0


class Console:
    """Prints headings, facts, lines and warnings, above a progress display with an ETA."""

    def __init__(self) -> None:
        self._output = Output()
        self._rich = RichConsole(file=cast(IO[str], self._output), highlight=False, soft_wrap=True)
        self._live: Progress | None = None

    def heading(self, text: str) -> None:
        """Prints the title of the lines that follow, in bold, after an empty line."""
        self._print(f"\n[bold]{escape(text)}[/bold]")

    def facts(self, values: Mapping[str, object]) -> None:
        """Prints keys and values, one pair a line."""
        width = max(_KEY_WIDTH, *map(len, values))
        for key, value in values.items():
            self._print(f"  [dim]{escape(key.ljust(width))}[/dim]  {escape(str(value))}")

    def line(self, text: str, style: str = "") -> None:
        """Prints one line."""
        self._print(f"[{style}]{escape(text)}[/{style}]" if style else escape(text))

    def warn(self, text: str) -> None:
        """Prints a warning: something that the user should know, though the run goes on."""
        self._print(f"[yellow]warning:[/yellow] {escape(text)}")

    @contextmanager
    def progress(self, description: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Shows how many of `total` units are done, with an ETA; lines printed meanwhile appear above it.

        Where the next unit takes far longer than usual, a warning tells where it stands.
        """
        with told_when_stuck(description, self.warn) as passed, self._shown(description, total, done) as show:

            def advance(n: int = 1) -> None:
                passed()
                show(n)

            yield advance

    @contextmanager
    def _shown(self, description: str, total: int, done: int) -> Iterator[Advance]:
        if not self._rich.is_terminal:
            yield self._plain_progress(description, total, done)
            return
        columns = (
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("ETA"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._rich, transient=True, refresh_per_second=4) as live:
            task = live.add_task(description, total=total, completed=done)
            self._live = live
            try:
                with last_words(_show_cursor):
                    yield lambda n=1: live.update(task, advance=n)
            finally:
                self._live = None

    def _print(self, markup: str) -> None:
        (self._live.console if self._live else self._rich).print(markup)
        self._output.flush()

    def _plain_progress(self, description: str, total: int, before: int) -> Advance:
        start = last = time.monotonic()
        done = before

        def advance(n: int = 1) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last >= _PLAIN_INTERVAL and before < done < total:
                last = now
                left = (now - start) / (done - before) * (total - done)
                self.line(f"  {description}: {done:,} of {total:,} ({done / total:.0%}), ETA {left:.0f} s")

        return advance


def _show_cursor(_: str) -> None:
    """Gives a terminal its cursor back, which a progress display hides, where the process is ended at once."""
    os.write(1, b"\x1b[?25h")
