"""The world of a hostile trial: a project, a home that is not its business, a server; and what is seen of all three."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trials import start

SECRET = "the-secret-of-the-user"
# The code of hostile modules: it runs when it is imported.
CODE = "import pathlib\npathlib.Path({canary!r}).touch()\nclass Net: ...\ndef draw(subject): ...\n"
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "ctypes.dlopen")
_CONNECTS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "urllib.Request")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.link", "os.symlink")


@dataclass(frozen=True)
class Case:
    """A hostile thing: what makes it, and returns the arguments of the command; what is told of it, with which code."""

    name: str
    make: Callable[[World], tuple[str, ...]]
    told: str
    code: int = 2


class World:
    """A folder with a project, the working directory; a home with a file in it; and a server that must hear nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work, self.home, self.evil = folder / "work", folder / "home", folder / "evil"
        for path in (self.work, self.home, self.evil / "conf" / "model", self.home / "bin"):
            path.mkdir(parents=True)
        self.precious = self.home / "thesis.txt"
        self.precious.write_text("years of work\n")
        self.canary, self._seen = folder / "canary", folder / "seen"
        self._seen.touch()
        (self.evil / "evil_code.py").write_text(CODE.format(canary=str(self.canary)))
        (self.evil / "conf" / "model" / "bad.yaml").write_text("_target_: evil_code.Net\n")
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._heard: list[str] = []

    def __enter__(self) -> World:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the project."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def do(self, *arguments: str) -> None:
        """Runs a command that is not hostile in the project."""
        command = start(*arguments, folder=self.work)
        assert command.wait() == 0, command.output

    def withstands(self, *arguments: str, told: str, code: int) -> None:
        """Raises AssertionError unless the command ends so, says so in a line, and touched nothing."""
        before = _files(self.home)
        environment = {"HOME": str(self.home), "USERS_SECRET": SECRET, "MPLCONFIGDIR": str(self.work / ".matplotlib")}
        command = start(*arguments, env=environment, before=self._watch, folder=self.work)
        found = command.wait()
        assert not self.canary.exists(), f"foreign code was run\n{command.output}"
        assert not self._heard, f"a server was contacted: {self._heard}\n{command.output}"
        watched, *seen = self._seen.read_text().splitlines() or [""]
        assert watched == "watched", "the command was not watched"
        assert not seen, f"{seen}\n{command.output}"
        assert _files(self.home) == before, f"the home was changed\n{command.output}"
        assert found == code, f"exit code {found}, not {code}\n{command.output}"
        assert "Traceback" not in command.output, command.output
        assert told in command.output, f"it does not say {told!r}:\n{command.output}"
        if code:
            assert len([line for line in command.output.splitlines() if line.startswith("error: ")]) == 1

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._heard.append(repr(connection.recv(2000)))
                connection.close()

    def _watch(self) -> None:
        """Notes, in the command's process, what it does outside the project; an audit hook cannot be taken out."""
        seen = os.open(self._seen, os.O_WRONLY | os.O_APPEND)
        allowed = tuple(map(str, (self.work, "/dev", "/proc", "/sys")))
        outside = (str(self.home), str(self.evil))
        own = os.path.dirname(sys.executable)

        def note(event: str, arguments: tuple[Any, ...]) -> None:
            what = ""
            if event == "open":
                path, _, flags = arguments
                writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                if isinstance(path, (str, bytes)) and writes:
                    full = os.path.realpath(os.fsdecode(path))
                    what = "" if full.startswith(allowed) or full.endswith(".pyc") else f"writes {full}"
            elif event in _CHANGES and isinstance(arguments[0], (str, bytes, os.PathLike)):
                full = os.path.realpath(os.fsdecode(arguments[0]))
                what = f"{event} {full}" if full.startswith(outside) else ""
            elif event.startswith(_RUNS) and event != "ctypes.dlopen":
                program = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else str(arguments[0])
                is_known = os.path.basename(program) in ("git", "uname", "lscpu") or program.startswith(own)
                what = "" if is_known and not program.startswith(outside) else f"runs {program} {arguments[1:2]}"
            elif event in _CONNECTS and str(self.port) in str(arguments):
                what = f"{event} {arguments[1:]}"
            elif event == "exec" and getattr(arguments[0], "co_filename", "").startswith(outside):
                what = f"runs {arguments[0].co_filename}"
            if what:
                os.write(seen, f"{what}\n".encode())

        os.write(seen, b"watched\n")
        sys.addaudithook(note)


def _files(folder: Path) -> dict[str, bytes | str]:
    """All files below a folder, but for caches that any program makes in a home."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] not in (".cache", ".config"):
            found[name] = path.read_bytes() if path.is_file() and not path.is_fifo() else ""
    return found
