"""CIFAR-10 without the internet: a tiny archive of the same form, served by a loopback server that can misbehave."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import socket
import tarfile
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from torchvision.datasets import CIFAR10 as Reader

from resnet_exp.data import cifar10
from resnet_exp.data.cifar10 import CIFAR10
from resnet_exp.interfaces import RunError

NAMES = ["airplane", "automobile", "bird"]
BATCHES = [name for name, _ in Reader.train_list + Reader.test_list]


def _batch(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 3072), np.uint8)
    return pickle.dumps({"data": pixels, "labels": [0, 1, 2, seed % 3]})


@pytest.fixture
def archive(monkeypatch) -> bytes:
    """A small archive, which torchvision is made to take for the real one."""
    files = {name: _batch(seed) for seed, name in enumerate(BATCHES)}
    files["batches.meta"] = pickle.dumps({"label_names": NAMES})
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{Reader.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(Reader, "tgz_md5", hashlib.md5(target.getvalue()).hexdigest())
    monkeypatch.setattr(Reader, "train_list", [[name, md5[name]] for name in BATCHES[:-1]])
    monkeypatch.setattr(Reader, "test_list", [[name, md5[name]] for name in BATCHES[-1:]])
    monkeypatch.setattr(Reader, "meta", Reader.meta | {"md5": md5["batches.meta"]})
    return target.getvalue()


@contextmanager
def _served(monkeypatch, body: bytes, send):
    """Serves an archive: `send(write)` decides what of it arrives, and how fast."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            send(self.wfile.write)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(Reader, "url", f"http://127.0.0.1:{server.server_port}/{Reader.filename}")
    try:
        yield requests
    finally:
        server.shutdown()
        server.server_close()


def _assert_nothing_is_left(root):
    assert [path.name for path in root.rglob("*")] == []


def _assert_tells_what_to_do(error: RunError, root):
    for part in ("cifar-10-python.tar.gz", Reader.tgz_md5, str(root), "data=digits", "data=image_folder data.root="):
        assert part in str(error)


def test_the_md5_is_torchvisions():
    assert Reader.tgz_md5 == cifar10.ARCHIVE_MD5
    assert CIFAR10("data").identity() == f"cifar10-{Reader.tgz_md5}"


def test_it_is_downloaded_verified_read_and_then_reused(archive, monkeypatch, tmp_path):
    with _served(monkeypatch, archive, lambda write: write(archive)) as requests:
        loaded = CIFAR10(tmp_path / "new" / "root").load(progress=None)
        asked = len(requests)
        again = CIFAR10(tmp_path / "new" / "root").load(progress=None)
    assert len(requests) == asked > 0
    assert loaded.train.images.shape == (20, 32, 32, 3) and loaded.test.images.shape == (4, 32, 32, 3)
    assert loaded.train.images.dtype == np.uint8 and loaded.train.labels.dtype == np.int64
    assert loaded.class_names == tuple(NAMES)
    planes = pickle.loads(_batch(0))["data"][1].reshape(3, 32, 32)
    np.testing.assert_array_equal(loaded.train.images[1], planes.transpose(1, 2, 0))
    np.testing.assert_array_equal(again.test.images, loaded.test.images)
    assert {path.name for path in (tmp_path / "new" / "root").iterdir()} == {Reader.filename, Reader.base_folder}


def test_a_corrupt_extracted_file_is_extracted_again(archive, tmp_path):
    (tmp_path / Reader.filename).write_bytes(archive)
    first = CIFAR10(tmp_path, download=False).load(progress=None)
    batch = tmp_path / Reader.base_folder / BATCHES[0]
    batch.write_bytes(batch.read_bytes()[:-9] + b"corrupted")
    again = CIFAR10(tmp_path, download=False).load(progress=None)
    np.testing.assert_array_equal(first.train.images, again.train.images)


def test_a_corrupt_archive_is_named_and_kept_where_downloading_is_off(archive, tmp_path):
    (tmp_path / Reader.filename).write_bytes(archive[:-1])
    with pytest.raises(RunError, match=r"is corrupt \(md5 .*data\.download=false") as raised:
        CIFAR10(tmp_path, download=False).load(progress=None)
    _assert_tells_what_to_do(raised.value, tmp_path)
    assert (tmp_path / Reader.filename).read_bytes() == archive[:-1]


def test_a_corrupt_archive_is_downloaded_again(archive, monkeypatch, tmp_path, caplog):
    (tmp_path / Reader.filename).write_bytes(archive[:-1])
    with _served(monkeypatch, archive, lambda write: write(archive)):
        CIFAR10(tmp_path).load(progress=None)
    assert "is corrupt" in caplog.text
    assert (tmp_path / Reader.filename).read_bytes() == archive


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_connection_that_closes_early_leaves_nothing(archive, monkeypatch, tmp_path, share):
    part = archive[: int(len(archive) * share)]
    with _served(monkeypatch, archive, lambda write: write(part)), pytest.raises(RunError, match="failed") as raised:
        CIFAR10(tmp_path).load(progress=None)
    _assert_tells_what_to_do(raised.value, tmp_path)
    _assert_nothing_is_left(tmp_path)


def test_other_bytes_than_expected_leave_nothing(archive, monkeypatch, tmp_path):
    wrong = archive[:-1] + bytes([archive[-1] ^ 1])
    with _served(monkeypatch, wrong, lambda write: write(wrong)), pytest.raises(RunError, match="download failed"):
        CIFAR10(tmp_path).load(progress=None)
    _assert_nothing_is_left(tmp_path)


def test_a_server_that_is_silent_is_given_up(archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "FIRST_BYTES_SECONDS", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setattr(Reader, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/{Reader.filename}")
        started = time.monotonic()
        with pytest.raises(RunError, match=r"no data came from the network for 0\.3 s") as raised:
            CIFAR10(tmp_path).load(progress=None)
    assert time.monotonic() - started < 1.5
    _assert_tells_what_to_do(raised.value, tmp_path)
    _assert_nothing_is_left(tmp_path)


def test_a_server_that_falls_silent_half_way_is_given_up(archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "SILENCE_SECONDS", 0.3)
    body, done = archive + bytes(200_000), threading.Event()

    def half(write):
        write(body[: len(body) // 2])
        done.wait(5)

    with _served(monkeypatch, body, half):
        with pytest.raises(RunError, match=r"no data came from the network for 0\.3 s"):
            CIFAR10(tmp_path).load(progress=None)
        _assert_nothing_is_left(tmp_path)
        done.set()


def test_a_slow_download_is_not_killed(archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "FIRST_BYTES_SECONDS", 0.5)
    monkeypatch.setattr(cifar10, "SILENCE_SECONDS", 0.5)
    padded = archive + bytes(32 * 1024 * 8)  # gzip takes trailing zeros for padding
    monkeypatch.setattr(Reader, "tgz_md5", hashlib.md5(padded).hexdigest())

    def slowly(write):
        for start in range(0, len(padded), 48 * 1024):
            write(padded[start : start + 48 * 1024])
            time.sleep(0.15)

    started = time.monotonic()
    with _served(monkeypatch, padded, slowly):
        assert len(CIFAR10(tmp_path).load(progress=None).train) == 20
    assert time.monotonic() - started > 0.8


@pytest.mark.parametrize("seconds", [0, 2])
def test_names_that_do_not_resolve_are_given_up(archive, monkeypatch, tmp_path, seconds):
    def unresolved(*args, **kwargs):
        time.sleep(seconds)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(cifar10, "FIRST_BYTES_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    started = time.monotonic()
    with pytest.raises(RunError, match=re.escape(Reader.filename)) as raised:
        CIFAR10(tmp_path).load(progress=None)
    assert time.monotonic() - started < 1.5
    _assert_tells_what_to_do(raised.value, tmp_path)
    _assert_nothing_is_left(tmp_path)


def test_the_user_waits_less_than_ten_seconds():
    assert cifar10.FIRST_BYTES_SECONDS <= 5


def test_a_root_that_cannot_be_written_to_is_named(archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"data\.root=.* cannot be written to"):
        CIFAR10(tmp_path / "file" / "root").load(progress=None)


@pytest.mark.parametrize("arguments", [{"root": ""}, {"root": None}, {"root": "data", "download": "yes"}])
def test_wrong_arguments_are_named(arguments, refused):
    assert refused("data", "data.cifar10.CIFAR10", **arguments).startswith(("data.root=", "data.download="))
