"""CIFAR-10 and -100 without the internet: tiny archives of the same form, from a loopback server that can misbehave."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision

from resnet_exp.data import cifar
from resnet_exp.data.cifar import CIFAR10, CIFAR100
from resnet_exp.interfaces import DataSize, RunError

NAMES = ["airplane", "automobile", "bird"]
# What an image of each says of itself in its archive: CIFAR-100's has a coarse class too, which is not wanted.
LABELS = {CIFAR10: "labels", CIFAR100: "fine_labels"}


def _batch(source, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 3072), np.uint8)
    coarse = {"coarse_labels": [19, 19, 19, 19]} if source is CIFAR100 else {}
    return pickle.dumps({"data": pixels, LABELS[source]: [0, 1, 2, seed % 3], **coarse})


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def source(request):
    return request.param


@pytest.fixture
def reader(source):
    return getattr(torchvision.datasets, source.__name__)


@pytest.fixture
def archive(source, reader, monkeypatch) -> bytes:
    """A small archive, which torchvision is made to take for the real one."""
    train, test = ([name for name, _ in files] for files in (reader.train_list, reader.test_list))
    files = {name: _batch(source, seed) for seed, name in enumerate(train + test)}
    meta = {reader.meta["key"]: NAMES, "coarse_label_names": ["vehicles"]}
    files[reader.meta["filename"]] = pickle.dumps(meta)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{reader.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(target.getvalue()).hexdigest())
    monkeypatch.setattr(reader, "train_list", [[name, md5[name]] for name in train])
    monkeypatch.setattr(reader, "test_list", [[name, md5[name]] for name in test])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5[reader.meta["filename"]]})
    return target.getvalue()


@contextmanager
def _served(monkeypatch, reader, body: bytes, send):
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
    monkeypatch.setattr(reader, "url", f"http://127.0.0.1:{server.server_port}/{reader.filename}")
    try:
        yield requests
    finally:
        server.shutdown()
        server.server_close()


def _assert_nothing_is_left(root):
    assert [path.name for path in root.rglob("*")] == []


def _assert_tells_what_to_do(error: RunError, reader, root):
    for part in (reader.filename, reader.tgz_md5, str(root), "data=digits", "data=image_folder data.root="):
        assert part in str(error)


# What comes out


def test_the_md5_and_the_name_are_torchvisions(source, reader):
    assert source.archive_md5 == reader.tgz_md5
    assert source("data").identity() == f"{source.__name__.lower()}-{reader.tgz_md5}"
    assert source.title.replace("-", "") == source.__name__


def test_one_root_holds_both(tmp_path):
    ten, hundred = torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100
    assert ten.filename != hundred.filename and ten.base_folder != hundred.base_folder
    assert CIFAR10(tmp_path).identity() != CIFAR100(tmp_path).identity()


@pytest.mark.parametrize(("made", "classes"), [(CIFAR10, 10), (CIFAR100, 100)])
def test_the_size_is_the_published_one(made, classes):
    """https://www.cs.toronto.edu/~kriz/cifar.html: 50,000 training images, 5,000 or 500 of each class."""
    assert made("data").size() == DataSize(num_train=50_000, num_classes=classes)


def test_size_and_identity_import_no_torchvision():
    program = (
        "import sys; from resnet_exp.data.cifar import CIFAR10, CIFAR100; "
        "[(made('data').size(), made('data').identity()) for made in (CIFAR10, CIFAR100)]; "
        "sys.exit(bool({'torchvision', 'torch', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_it_is_downloaded_verified_read_and_then_reused(source, reader, archive, monkeypatch, tmp_path):
    root = tmp_path / "new" / "root"
    with _served(monkeypatch, reader, archive, lambda write: write(archive)) as requests:
        loaded = source(root).load(progress=None)
        asked = len(requests)
        again = source(root).load(progress=None)
    assert len(requests) == asked > 0
    train = 4 * len(reader.train_list)
    assert loaded.train.images.shape == (train, 32, 32, 3) and loaded.test.images.shape == (4, 32, 32, 3)
    assert loaded.train.images.dtype == np.uint8 and loaded.train.labels.dtype == np.int64
    assert loaded.class_names == tuple(NAMES)
    assert loaded.train.labels[:4].tolist() == [0, 1, 2, 0], "the fine ones, where there are two kinds"
    planes = pickle.loads(_batch(source, 0))["data"][1].reshape(3, 32, 32)
    np.testing.assert_array_equal(loaded.train.images[1], planes.transpose(1, 2, 0))
    np.testing.assert_array_equal(again.test.images, loaded.test.images)
    assert {path.name for path in root.iterdir()} == {reader.filename, reader.base_folder}


# Files that are wrong


def test_a_corrupt_extracted_file_is_extracted_again(source, reader, archive, tmp_path):
    (tmp_path / reader.filename).write_bytes(archive)
    first = source(tmp_path, download=False).load(progress=None)
    batch = tmp_path / reader.base_folder / reader.train_list[0][0]
    batch.write_bytes(batch.read_bytes()[:-9] + b"corrupted")
    again = source(tmp_path, download=False).load(progress=None)
    np.testing.assert_array_equal(first.train.images, again.train.images)


def test_a_corrupt_archive_is_named_and_kept_where_downloading_is_off(source, reader, archive, tmp_path):
    (tmp_path / reader.filename).write_bytes(archive[:-1])
    with pytest.raises(RunError, match=r"is corrupt \(md5 .*data\.download=false") as raised:
        source(tmp_path, download=False).load(progress=None)
    _assert_tells_what_to_do(raised.value, reader, tmp_path)
    assert str(raised.value).startswith(f"{source.title}: ")
    assert (tmp_path / reader.filename).read_bytes() == archive[:-1]


def test_a_corrupt_archive_is_downloaded_again(source, reader, archive, monkeypatch, tmp_path, caplog):
    (tmp_path / reader.filename).write_bytes(archive[:-1])
    with _served(monkeypatch, reader, archive, lambda write: write(archive)):
        source(tmp_path).load(progress=None)
    assert "is corrupt" in caplog.text
    assert (tmp_path / reader.filename).read_bytes() == archive


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_connection_that_closes_early_leaves_nothing(source, reader, archive, monkeypatch, tmp_path, share):
    part = archive[: int(len(archive) * share)]
    served = _served(monkeypatch, reader, archive, lambda write: write(part))
    with served, pytest.raises(RunError, match="failed") as raised:
        source(tmp_path).load(progress=None)
    _assert_tells_what_to_do(raised.value, reader, tmp_path)
    _assert_nothing_is_left(tmp_path)


def test_other_bytes_than_expected_leave_nothing(source, reader, archive, monkeypatch, tmp_path):
    wrong = archive[:-1] + bytes([archive[-1] ^ 1])
    served = _served(monkeypatch, reader, wrong, lambda write: write(wrong))
    with served, pytest.raises(RunError, match="download failed"):
        source(tmp_path).load(progress=None)
    _assert_nothing_is_left(tmp_path)


def test_what_a_killed_process_left_is_deleted_and_what_one_uses_is_not(source, reader, archive, tmp_path):
    (tmp_path / reader.filename).write_bytes(archive)
    (tmp_path / ".cifar-left").mkdir()
    (tmp_path / ".cifar-left" / reader.filename).write_bytes(archive[:100])
    with source(tmp_path)._workspace() as used:
        source(tmp_path, download=False).load(progress=None)
        assert used.exists()
    assert {path.name for path in tmp_path.iterdir()} == {reader.filename, reader.base_folder}


def test_a_root_that_cannot_be_written_to_is_named(source, archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"data\.root=.*Not a directory.* choose another"):
        source(tmp_path / "file" / "root").load(progress=None)


def test_a_full_disk_is_told_and_leaves_no_half_folder(source, reader, archive, monkeypatch, tmp_path):
    def full(archive, folder):
        (Path(folder) / reader.base_folder).mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)

    monkeypatch.setattr(torchvision.datasets.utils, "extract_archive", full)
    (tmp_path / reader.filename).write_bytes(archive)
    with pytest.raises(RunError, match=r"data\.root=.*No space left.* choose another"):
        source(tmp_path).load(progress=None)
    assert [path.name for path in tmp_path.iterdir()] == [reader.filename]


def test_a_root_without_rights_is_named(source, archive, monkeypatch, tmp_path):
    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", denied)  # the tests may run as a user whom nothing is denied
    with pytest.raises(RunError, match=r"data\.root=.*Permission denied.* permissions"):
        source(tmp_path).load(progress=None)


# A network that is not there, or slow


def test_a_server_that_is_silent_is_given_up(source, reader, archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "FIRST_BYTES_SECONDS", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setattr(reader, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/{reader.filename}")
        with pytest.raises(RunError, match=r"no data came from the network for 0\.3 s") as raised:
            source(tmp_path).load(progress=None)
    _assert_tells_what_to_do(raised.value, reader, tmp_path)
    _assert_nothing_is_left(tmp_path)


def test_a_server_that_falls_silent_half_way_is_given_up(source, reader, archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "SILENCE_SECONDS", 0.3)
    body, done = archive + bytes(200_000), threading.Event()

    def half(write):
        write(body[: len(body) // 2])
        done.wait(5)

    with _served(monkeypatch, reader, body, half):
        with pytest.raises(RunError, match=r"no data came from the network for 0\.3 s"):
            source(tmp_path).load(progress=None)
        _assert_nothing_is_left(tmp_path)
        done.set()


@pytest.mark.parametrize(("hangs", "reason"), [(False, "name resolution"), (True, r"no data came .* 0\.3 s")])
def test_names_that_do_not_resolve_are_given_up(source, reader, archive, monkeypatch, tmp_path, hangs, reason):
    done = threading.Event()

    def unresolved(*args, **kwargs):
        if hangs:
            done.wait(30)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(cifar, "FIRST_BYTES_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    with pytest.raises(RunError, match=reason) as raised:
        source(tmp_path).load(progress=None)
    done.set()
    _assert_tells_what_to_do(raised.value, reader, tmp_path)
    _assert_nothing_is_left(tmp_path)


class _Download:
    """A download in a time of its own: a second passes with every look at it, `grows` says when data comes."""

    def __init__(self, folder, grows, seconds):
        self.file, self.grows, self.seconds, self.now = folder / "archive", grows, seconds, 0.0

    def monotonic(self):
        return self.now

    def is_alive(self):
        return self.now < self.seconds

    def join(self, timeout):
        self.now += 1
        if self.grows(self.now):
            with self.file.open("ab") as file:
                file.write(b"x")


@pytest.mark.parametrize(("grows", "seconds", "given_up_after"), [
    (lambda now: False, 2, None),  # ends before it is given up
    (lambda now: False, 1000, cifar.FIRST_BYTES_SECONDS),
    (lambda now: now % 50 == 1, 1000, None),  # slow, not dead
    (lambda now: now in (1, 40), 1000, cifar.SILENCE_SECONDS),
])  # fmt: skip
def test_only_silence_ends_a_download(monkeypatch, tmp_path, grows, seconds, given_up_after):
    download = _Download(tmp_path, grows, seconds)
    monkeypatch.setattr(cifar, "time", download)
    assert cifar._wait(download, download.file) == given_up_after


def test_the_user_waits_less_than_ten_seconds():
    assert cifar.FIRST_BYTES_SECONDS <= 5


@pytest.mark.parametrize("arguments", [{"root": ""}, {"root": None}, {"root": "data", "download": "yes"}])
def test_wrong_arguments_are_named(source, arguments, refused):
    message = refused("data", f"data.cifar.{source.__name__}", **arguments)
    assert message.startswith(("data.root=", "data.download="))


def test_a_home_of_nobody_is_a_folder_like_any_other(source):
    assert source("~nobody-of-this-name/data").root.name == "data"
