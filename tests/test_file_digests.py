"""What is remembered of files: which are read again, and that nothing remembered makes other images the same ones."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from resnet_exp.data import digest_store, file_digests, image_listing
from resnet_exp.data.file_digests import UNREADABLE, digests_of
from resnet_exp.data.image_listing import STAMP, stamps_of

NAMES = [f"{index}.png" for index in range(10)]


class Seen:
    """A progress display that counts the files that are read."""

    def __init__(self):
        self.read = 0

    @contextmanager
    def __call__(self, description, total, done=0):
        yield self.advance

    def advance(self, n=1):
        self.read += n


@pytest.fixture(autouse=True)
def _old_files(monkeypatch):
    """Files are taken to be old, and nothing is known of other tests' files: a process knows what it has read."""
    monkeypatch.setattr(file_digests, "_SETTLED_NS", -(10**9))
    monkeypatch.setattr(file_digests, "_verified", set())
    monkeypatch.setattr(digest_store, "_loaded", {})
    monkeypatch.setattr(digest_store, "_told", set())


@pytest.fixture
def root(tmp_path):
    (tmp_path / "set").mkdir()
    for name in NAMES:
        (tmp_path / "set" / name).write_bytes(name.encode() * 100)
    return tmp_path / "set"


@pytest.fixture
def digests(root, tmp_path):
    """Digests as a new process finds them, and how many files it reads for that."""

    def find(folders=None, *, verify=False, again=False):
        if not again:
            digest_store._loaded.clear()
            file_digests._verified.clear()
        seen = Seen()
        folders = [tmp_path / "cache"] if folders is None else folders
        return digests_of(root, NAMES, stamps_of(root, NAMES), folders, seen, verify=verify), seen.read

    return find


def rewritten(path, content):
    """Other bytes, as many, under the same name and modification time; in the same file (inode)."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path, content):
    """The same as `rewritten`, by another file that takes its place, as unpacking an archive does."""
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(content)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def blind(monkeypatch):
    """A file system whose stamps do not change with the file, as where ctimes are those of the program that unpacks."""

    def stamp_of(found):
        return found.st_dev, found.st_ino, found.st_size, 1, 2

    monkeypatch.setattr(image_listing, "stamp_of", stamp_of)
    monkeypatch.setattr(file_digests, "stamp_of", stamp_of)


def test_a_second_command_reads_no_file(digests):
    first, read = digests()
    assert read == 10
    second, read = digests()
    assert read == 0
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("change", [rewritten, replaced])
def test_a_file_of_the_same_name_size_and_time_is_read_again(digests, root, change):
    before, _ = digests()
    change(root / "3.png", b"other" * 100)
    after, read = digests()
    assert read == 1
    assert np.flatnonzero((before != after).any(1)).tolist() == [3]


def test_equal_bytes_have_equal_digests_wherever_they_lie(digests, root):
    shutil.copy2(root / "0.png", root / "1.png")
    found, _ = digests()
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()


def test_a_young_file_is_read_again_since_it_may_change_within_a_tick_of_the_clock(digests, monkeypatch):
    monkeypatch.setattr(file_digests, "_SETTLED_NS", 3600 * 10**9)
    assert [digests()[1] for _ in range(2)] == [10, 10]
    monkeypatch.setattr(file_digests, "_SETTLED_NS", -(10**9))
    assert [digests()[1] for _ in range(2)] == [10, 0]


@pytest.mark.parametrize(("ctime", "mtime", "shows"), [
    (5 * 10**9 + 123, 5 * 10**9 + 123, True),  # written where times are exact
    (5 * 10**9, 4 * 10**9, True),  # a ctime of its own: unpacked with an old mtime
    (5 * 10**9, 5 * 10**9, False),  # FAT: the mtime in whole seconds, shown for the ctime
    (5 * 10**9 + 30_000_000, 5 * 10**9 + 30_000_000, False),  # exFAT: the same in steps of 10 ms
    (99 * 10**9 + 123, 5 * 10**9, False),  # changed a second ago
    (200 * 10**9 + 123, 5 * 10**9, False),  # changed in the future: the server's clock is another
])  # fmt: skip
def test_which_stamps_are_trusted(ctime, mtime, shows, monkeypatch):
    monkeypatch.setattr(file_digests, "_SETTLED_NS", 2 * 10**9)
    stamps = np.array([(1, 2, 3, ctime, mtime)], STAMP)
    assert file_digests._shows_changes(stamps, 100 * 10**9).tolist() == [shows]


def test_verifying_finds_what_the_stamps_hide_and_says_so(digests, root, monkeypatch, caplog):
    blind(monkeypatch)
    before, _ = digests()
    rewritten(root / "3.png", b"other" * 100)
    hidden, read = digests()
    assert read == 0 and (hidden == before).all()
    after, read = digests(verify=True)
    assert read == 10 and np.flatnonzero((before != after).any(1)).tolist() == [3]
    assert "1 images" in caplog.text and "3.png" in caplog.text
    again, read = digests()
    assert read == 0 and (again == after).all(), "what was found is remembered instead"


def test_a_process_verifies_once(digests):
    assert digests(verify=True)[1] == 10
    assert digests(verify=True, again=True)[1] == 0


def test_verifying_says_nothing_where_all_is_well(digests, caplog):
    caplog.set_level(logging.WARNING)
    digests()
    digests(verify=True)
    assert not caplog.text


def test_what_cannot_be_read_has_no_digest_and_is_tried_again(digests, root, monkeypatch):
    (root / "3.png").unlink()
    (root / "3.png").symlink_to("nowhere")
    (root / "4.png").unlink()
    os.mkfifo(root / "4.png")  # since the listing: opening it must not wait for a writer
    opened = os.open

    def denied(path, *arguments):
        if str(path).endswith("5.png"):  # by hand: the tests may run as a user to whom nothing is denied
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        found, _ = digests()
    assert [index for index in range(10) if found[index].tobytes() == UNREADABLE] == [3, 4, 5]
    found, read = digests()
    assert read == 3 and found[5].tobytes() != UNREADABLE


@pytest.mark.parametrize("damage", [
    lambda file: b"", lambda file: file[:-1], lambda file: file[:40], lambda file: b"\0" * len(file),
    lambda file: file[:500] + bytes([file[500] ^ 1]) + file[501:], lambda file: pickle.dumps(_Harmful()),
])  # fmt: skip
def test_a_damaged_store_is_none(digests, tmp_path, damage):
    expected, _ = digests()
    (store,) = (tmp_path / "cache").iterdir()
    store.write_bytes(damage(store.read_bytes()))
    found, read = digests()
    assert read == 10 and (found == expected).all()
    assert digests()[1] == 0
    assert not _Harmful.was_loaded


class _Harmful:
    was_loaded = False

    def __reduce__(self):
        return setattr, (_Harmful, "was_loaded", True)


def test_a_store_with_a_right_checksum_and_other_contents_is_none(digests, tmp_path):
    import hashlib

    expected, _ = digests()
    (store,) = (tmp_path / "cache").iterdir()
    store.write_bytes(hashlib.sha256(b"no records").digest() + b"no records")
    assert (digests()[0] == expected).all()


def test_a_pipe_in_place_of_the_store_is_not_waited_for(digests, tmp_path):
    digests()
    (store,) = (tmp_path / "cache").iterdir()
    store.unlink()
    os.mkfifo(store)
    assert digests()[1] == 10


def test_without_a_writable_folder_a_process_still_reads_once(digests, tmp_path):
    (tmp_path / "file").write_text("no folder: stands for one that cannot be written to")
    folders = [tmp_path / "file"]
    assert digests(folders)[1] == 10
    assert digests(folders, again=True)[1] == 0
    assert digests(folders)[1] == 10


def test_the_next_folder_is_written_where_the_first_cannot_be_and_the_later_word_counts(digests, root, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    digests([first])
    (store,) = first.iterdir()
    os.utime(store, (1, 1))
    rewritten(root / "3.png", b"other" * 100)
    expected, read = digests([second, first])
    assert read == 1 and len(list(second.iterdir())) == 1
    found, read = digests([first, second])
    assert read == 0 and (found == expected).all()


def test_readers_never_see_half_a_store(root, tmp_path):
    stamps = stamps_of(root, NAMES)
    written = [np.full((10, 32), value, np.uint8) for value in (1, 2)]
    path = tmp_path / "cache" / digest_store._name(root)

    def write(value):
        for _ in range(50):
            digest_store._write(path, digest_store._sorted(stamps, written[value]))

    path.parent.mkdir()
    writers = [threading.Thread(target=write, args=(value,)) for value in (0, 1)]
    [writer.start() for writer in writers]
    seen = 0
    while any(writer.is_alive() for writer in writers) or not seen:
        known = digest_store._read(path)
        if len(known.stamps):
            seen += 1
            assert known.digests.tobytes() in (written[0].tobytes(), written[1].tobytes())
    [writer.join() for writer in writers]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_old_stores_and_what_killed_processes_left_are_deleted(digests, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for index in range(20):
        (cache / f"digests-{index:02}").write_bytes(b"of another root")
        os.utime(cache / f"digests-{index:02}", (index + 1, index + 1))
    (cache / ".digests-00.left").write_bytes(b"")
    os.utime(cache / ".digests-00.left", (1, 1))
    digests()
    left = sorted(path.name for path in cache.iterdir())
    assert len(left) == 16 and left[0] == "digests-05"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_it_is_told_once_and_nothing_is_left(
    digests, root, tmp_path, monkeypatch, caplog, number
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    expected, _ = digests([tmp_path / "other"])
    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(2):
        found, read = digests()
        assert read == len(NAMES) and (found == expected).all()
    (line,) = (record.getMessage() for record in caplog.records)
    size = 32 + len(NAMES) * (STAMP.itemsize + 32)
    assert f"{tmp_path / 'cache'}: {os.strerror(number)}" in line and f"{size:,} bytes" in line and str(root) in line
    assert list((tmp_path / "cache").iterdir()) == []
