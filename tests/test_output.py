"""A run outlives those who read its output."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

# Prints more than every buffer holds, then says with its exit code that it has come to its end.
_PRINTS = """
import sys
from resnet_exp.runs.console import Console
from resnet_exp.runs.output import fill_closed_descriptors
fill_closed_descriptors()
console = Console()
with console.progress("training", 1000) as advance:
    for step in range(1000):
        console.line(f"step {{step}} " + 100 * "x")
        advance()
with open({file!r}, "w") as written:
    written.write("all done")
"""


def _child(tmp_path, shell_suffix="", **how):
    """Runs the code above in a child process; returns its exit code and what it wrote into its file."""
    file = tmp_path / "written"
    code = _PRINTS.format(file=str(file))
    command = ["bash", "-c", f'exec "$0" -c "$1" {shell_suffix}', sys.executable, code]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, **how)
    return done.returncode, file.read_text()


@pytest.mark.parametrize("suffix", [">/dev/full", ">/dev/full 2>/dev/full", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_full_disk_or_a_closed_output_costs_nothing(suffix, tmp_path):
    assert _child(tmp_path, suffix) == (0, "all done")


def test_a_pipe_that_nobody_reads_any_more_costs_nothing(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    assert _child(tmp_path, stdout=writer) == (0, "all done")
    os.close(writer)


def test_a_terminal_that_was_closed_costs_nothing(tmp_path):
    terminal, child_side = pty.openpty()
    os.close(terminal)
    assert _child(tmp_path, stdout=child_side) == (0, "all done")
    os.close(child_side)


def test_what_can_be_read_arrives_whole(tmp_path):
    reader = subprocess.run(
        [sys.executable, "-c", _PRINTS.format(file=str(tmp_path / "written"))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert [line.split()[1] for line in reader.stdout.splitlines()] == [str(step) for step in range(1000)]
