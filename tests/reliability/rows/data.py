"""C2: data that arrive or lie there damaged, and processes killed while they download or decode."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from ..points import calling
from ..trials import TINY, Row, differences, run_directory, start

_NAMES = [f"class {index}" for index in range(10)]
_CIFAR = (*TINY, "data=cifar10", "data.root=data", "data.limit_train=null", "data.holdout=30")
_FOLDER = (
    *TINY,
    *("data=image_folder", "data.root=images", "data.cache=cache", "data.image_size=32", "data.limit_train=null"),
    *("data.holdout=10", "train.batch_size=16"),
)
Before = Callable[[], None]


# CIFAR's archive, from a server that does what it is told


class _Server:
    """Serves a body to whoever asks; `sends` decides what of it arrives."""

    def __init__(self, body: bytes) -> None:
        self.body, self.status, self.sends = body, 200, len(body)
        self.on_half: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                half = outer.sends // 2
                self.wfile.write(outer.body[:half])
                outer.on_half()
                self.wfile.write(outer.body[half : outer.sends])

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # the killed hang up
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/cifar-10-python.tar.gz"


def _archive() -> tuple[bytes, dict[str, bytes]]:
    """A small archive of CIFAR-10's form, and its files."""
    names = [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]
    files = {}
    for seed, name in enumerate(names):
        drawn = np.random.default_rng(seed)
        pixels = drawn.integers(0, 256, (60, 3072), np.uint8)
        files[name] = pickle.dumps({"data": pixels, "labels": [index % 10 for index in range(60)]})
    files["batches.meta"] = pickle.dumps({"label_names": _NAMES})
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue(), files


def _published(url: str, archive: bytes, files: dict[str, bytes]) -> Before:
    """Makes a command take the small archive for the real one."""

    def install() -> None:
        from torchvision.datasets import CIFAR10

        from resnet_exp.data import cifar
        from resnet_exp.interfaces import DataSize

        md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
        CIFAR10.url, CIFAR10.tgz_md5 = url, hashlib.md5(archive).hexdigest()
        CIFAR10.train_list = [[name, md5[name]] for name in files if name.startswith("data_")]
        CIFAR10.test_list = [["test_batch", md5["test_batch"]]]
        CIFAR10.meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
        cifar.CIFAR10.data_size = DataSize(num_train=300, num_classes=10)
        cifar.CIFAR10.archive_md5 = CIFAR10.tgz_md5

    return install


class _Cifar:
    """A trial with CIFAR: what has its final name is never partial, and the next run is as one undisturbed."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.files = _archive()
        self.server = _Server(self.archive)
        self.root = folder / "data"
        self.folder = folder

    def go(self, fault: Before = lambda: None, **more: str) -> tuple[int, str]:
        published = _published(self.server.url, self.archive, self.files)
        output = [f"{key}={value}" for key, value in more.items()]
        command = start(*_CIFAR, *output, before=lambda: (published(), fault()))
        code = command.wait()
        assert "Traceback" not in command.output, command.output
        self.check_whole()
        return code, command.output

    def check_whole(self) -> None:
        for path, content in self.expected().items():
            assert not path.exists() or path.read_bytes() == content, f"{path.name} is partial"

    def expected(self) -> dict[Path, bytes]:
        found = {self.root / "cifar-10-batches-py" / name: content for name, content in self.files.items()}
        return {self.root / "cifar-10-python.tar.gz": self.archive, **found}

    def recovers(self) -> None:
        code, output = self.go()
        assert code == 0, output
        assert all(path.exists() for path in self.expected())
        left = {path.name for path in self.root.iterdir()} - {"cifar-10-batches-py", "cifar-10-python.tar.gz"}
        assert not left, f"left behind: {left}"
        assert self.go(output_dir="alone")[0] == 0
        alone = next((self.folder / "alone").iterdir())
        assert not differences(run_directory(self.folder), alone)


def _is_told(folder: Path, change: Callable[[_Server], None]) -> None:
    """The server sends something else: told in an error, nothing is left, and the next run recovers."""
    trial = _Cifar(folder)
    change(trial.server)
    code, output = trial.go()
    assert code == 1 and "error: CIFAR-10:" in output, output
    assert not list(trial.root.iterdir())
    trial.server.body, trial.server.status, trial.server.sends = trial.archive, 200, len(trial.archive)
    trial.recovers()


def _truncated(server: _Server) -> None:
    server.sends //= 2


def _flipped(server: _Server) -> None:
    server.body = server.body[:1000] + bytes([server.body[1000] ^ 4]) + server.body[1001:]


def _html(server: _Server) -> None:
    server.body = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    server.sends = len(server.body)


def _unavailable(server: _Server) -> None:
    server.status = 503


def _killed_downloading(folder: Path) -> None:
    trial, half, gone = _Cifar(folder), threading.Event(), threading.Event()

    def on_half() -> None:
        half.set()
        gone.wait(60)

    trial.server.on_half = on_half
    published = _published(trial.server.url, trial.archive, trial.files)
    command = start(*_CIFAR, before=published)
    assert command.wait_for(half.is_set), command.output
    time.sleep(0.05)  # some of it is written by now
    command.send(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    gone.set()
    trial.server.on_half = lambda: None
    trial.check_whole()
    assert not (trial.root / "cifar-10-python.tar.gz").exists()
    trial.recovers()


def _killed_where(target: str, after: bool, folder: Path) -> None:
    """Killed where the archive or its folder gets its final name, before or after it."""
    trial = _Cifar(folder)
    code, output = trial.go(calling(target, 1, _kill_self, after=after))
    assert code == -signal.SIGKILL, output
    trial.recovers()


def _damaged_where_it_lies(name: str, cut: bool, folder: Path) -> None:
    """A file that an earlier run left is damaged: the archive, with no folder of its files, or one of these."""
    trial = _Cifar(folder)
    assert trial.go(output_dir="before")[0] == 0
    path = trial.root / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if cut else content[:50] + bytes([content[50] ^ 1]) + content[51:])
    if name.endswith(".gz"):
        for extracted in (trial.root / "cifar-10-batches-py").iterdir():
            extracted.unlink()
    trial.recovers()


# A folder of images, decoded once and cached


def _write_images(root: Path) -> None:
    drawn = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 6)):
        for label in range(3):
            (root / split / f"class{label}").mkdir(parents=True)
            for index in range(count):
                pixels = drawn.integers(0, 100, (40, 40, 3), np.uint8)
                pixels[..., label] += 100
                kind = ("png", "jpg")[index % 2]
                Image.fromarray(pixels).save(root / split / f"class{label}" / f"{index}.{kind}")


def _end_as_undisturbed(folder: Path) -> str:
    """Runs to the end; returns what was printed. A run with a cache of its own has the same result."""
    command = start(*_FOLDER)
    assert command.wait() == 0 and "Traceback" not in command.output, command.output
    alone = start(*_FOLDER, "data.cache=other", "output_dir=alone")
    assert alone.wait() == 0, alone.output
    assert not differences(run_directory(folder), next((folder / "alone").iterdir()))
    return command.output


def _killed_decoding(target: str, number: int, after: bool, folder: Path) -> None:
    _write_images(folder / "images")
    command = start(*_FOLDER, before=calling(target, number, _kill_self, after=after))
    assert command.wait() == -signal.SIGKILL, command.output
    whole = [path for path in (folder / "cache").rglob("pixels") if not path.parent.name.startswith(".")]
    assert all((path.parent / "meta.json").exists() for path in whole), "an entry has its name and is not whole"
    _end_as_undisturbed(folder)


def _damaged_cache(name: str, number: int, folder: Path) -> None:
    """An entry of the cache is cut, emptied, or has a bit flipped."""
    _write_images(folder / "images")
    first = start(*_FOLDER, "output_dir=before")
    assert first.wait() == 0, first.output
    for path in (folder / "cache").rglob(name):
        content = path.read_bytes()
        place = len(content) // 2
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        path.write_bytes((content[:place], b"", flipped)[number])
    assert "corrupt" in _end_as_undisturbed(folder)


def _damaged_image(content: Callable[[bytes], bytes], folder: Path) -> None:
    """An image that is cut, or a page in its place, is named; once it is whole, the run goes."""
    _write_images(folder / "images")
    path = folder / "images" / "train" / "class0" / "1.jpg"
    whole = path.read_bytes()
    path.write_bytes(content(whole))
    damaged = start(*_FOLDER, "output_dir=damaged")
    assert damaged.wait() == 1 and "class0/1.jpg" in damaged.output, damaged.output
    assert "Traceback" not in damaged.output, damaged.output
    path.write_bytes(whole)
    assert "class0/1.jpg" not in _end_as_undisturbed(folder)


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_CASES: tuple[Callable[[Path], None], ...] = (
    lambda folder: _is_told(folder, _truncated),
    lambda folder: _killed_decoding("resnet_exp.data.decode_cache._write", 1, True, folder),
    lambda folder: _killed_downloading(folder),
    lambda folder: _damaged_cache("pixels", 2, folder),
    lambda folder: _is_told(folder, _html),
    lambda folder: _killed_where("os.replace", False, folder),
    lambda folder: _damaged_image(lambda whole: whole[: len(whole) // 2], folder),
    lambda folder: _is_told(folder, _flipped),
    lambda folder: _is_told(folder, _unavailable),
    lambda folder: _killed_where("os.replace", True, folder),
    lambda folder: _killed_where("torchvision.datasets.utils.extract_archive", True, folder),
    lambda folder: _killed_where("resnet_exp.data.cifar._CIFAR._extract", True, folder),
    lambda folder: _damaged_where_it_lies("cifar-10-python.tar.gz", True, folder),
    lambda folder: _damaged_where_it_lies("cifar-10-batches-py/data_batch_3", True, folder),
    lambda folder: _damaged_where_it_lies("cifar-10-batches-py/test_batch", False, folder),
    lambda folder: _killed_decoding("resnet_exp.data.decode_cache._publish", 1, False, folder),
    lambda folder: _killed_decoding("os.rename", 1, False, folder),
    lambda folder: _damaged_cache("meta.json", 0, folder),
    lambda folder: _damaged_cache("meta.json", 1, folder),
    lambda folder: _damaged_image(lambda whole: b"<!DOCTYPE html><html></html>", folder),
)

ROWS = (
    Row(
        "C2",
        "data truncated, flipped, a page for an archive or an image; killed while downloading, extracting or decoding",
        "never a partial file under the final name; told; the next run ends as one that was not disturbed",
        full=len(_CASES),
        ci=7,
        trial=lambda number, folder: _CASES[number](folder),
    ),
)
