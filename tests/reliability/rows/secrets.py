"""X3: secrets in settings, yamls, environment and errors arrive where they are used, and stand in no file or output."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import random
import shutil
import string
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

from hydra.core.override_parser.types import Quote, QuotedString

from ..trials import TINY, Row, start

_PLUGINS = Path(__file__).parents[1] / "plugins"
_TRACKED = [*(text for text in TINY if text != "tracker=none"), f"plugins={_PLUGINS}"]
_TELLING = [*_TRACKED, "tracker=telling"]
# What a password may hold, so that it is more than a word: a pattern or a quoting that stops there gives the rest away.
_INSIDE = ("", "@", "/", " ", "'", '"', ":", "%2F", "=", "&", "+", "é", "\\", ",", ";", "#", "?", "{", "$")
_SINGLE = ("address", "token", "mapping", "yaml", "reference", "error", "mlflow")
_SWEPT = ("command line", "yaml", "swept")
_LAUNCHERS = ("basic", "joblib", "submitit_local")
_CYCLE = len(_SINGLE) + len(_SWEPT)


def _trial(number: int, folder: Path) -> None:
    drawn = random.Random(number)
    letters = "".join(drawn.choices(string.ascii_letters + string.digits, k=24))
    secret = f"Qz7{letters[:12]}{_INSIDE[number % len(_INSIDE)]}{letters[12:]}"
    for name in ("HOME", "JOBLIB_TEMP_FOLDER"):
        os.environ[name] = str(folder)
    round_, place = divmod(number, _CYCLE)
    if place < len(_SINGLE):
        _single(_SINGLE[place], secret, folder)
    else:
        launchers = (*_LAUNCHERS, "ray") if round_ else _LAUNCHERS  # Ray, which starts slowly, once
        _sweep(_SWEPT[place - len(_SINGLE)], secret, launchers[(round_ + place) % len(launchers)], folder)
    _stands_nowhere(folder, letters, secret)


def _single(way: str, secret: str, folder: Path) -> None:
    """One run whose tracker, or error, tells the secret."""
    address = f"postgresql://me:{secret}@host/db"
    if way == "address":
        _run(_TELLING, [f"tracker.uri={_quoted(address)}"], [address, None, None, None], folder)
    elif way == "token":
        _run(_TELLING, [f"++tracker.token={_quoted(secret)}"], [None, secret, None, None], folder)
    elif way == "mapping":
        _run(_TELLING, [f"tracker.auth={{user: me, password: {_quoted(secret)}}}"], [None, None, secret, None], folder)
    elif way == "yaml":
        given = _experiment(folder, {"tracker": {"uri": address, "token": secret}})
        _run(_TELLING, ["--config-dir", given, "+mine=it"], [address, secret, None, None], folder)
    elif way == "reference":
        os.environ["X3_TOKEN"] = secret
        _run(_TELLING, ["tracker.token='${oc.env:X3_TOKEN}'"], [None, secret, None, secret], folder)
    elif way == "error":
        command = start(
            *_TRACKED, "tracker=csv", "~model.width", "model=leaky", f"+hydra.job.env_set.X3_TOKEN={_quoted(secret)}"
        )
        assert command.wait() == 1, command.output
        assert "cannot be read" in command.output and "***" in command.output, command.output
    else:
        safe = quote(secret, safe="")
        command = start(*_TRACKED, "tracker=mlflow", f"tracker.uri=http://me:{safe}@127.0.0.1:9")
        assert command.wait() == 0, command.output
        assert "http://me:***@127.0.0.1:9" in command.output, command.output


def _run(before: list[str], given: list[str], known: list[str | None], folder: Path) -> None:
    command = start(*before, *given)
    assert command.wait() == 0, command.output
    assert "no way to" in command.output and "***" in command.output, command.output
    _has_arrived(folder, known, 1)


def _sweep(way: str, secret: str, launcher: str, folder: Path) -> None:
    """Two jobs, each with a tracker that tells the secret, the parent's besides."""
    address = f"https://me:{secret}@host/db"
    swept = ["--multirun", *(text for text in _TELLING if "max_lr" not in text), f"hydra/launcher={launcher}"]
    known: list[str | None] = [address, secret, None, None]
    if way == "command line":
        given = [f"tracker.uri={_quoted(address)}", f"tracker.token={_quoted(secret)}", "scheduler.max_lr=0.05,0.02"]
    elif way == "yaml":
        settings = {"tracker": {"uri": address, "token": secret}}
        given = ["--config-dir", _experiment(folder, settings), "+mine=it", "scheduler.max_lr=0.05,0.02"]
    else:
        other = address.replace("host", "other")  # two addresses with one password
        os.environ["X3_TOKEN"] = secret
        given = [f"tracker.uri={_quoted(address)},{_quoted(other)}", "tracker.token='${oc.env:X3_TOKEN}'"]
        given += ["scheduler.max_lr=0.05", "rerun=true"]
    short = tempfile.mkdtemp(prefix="x3-")  # Ray's sockets have short names
    try:
        command = start(*swept, *given, env={"RAY_TMPDIR": short}, public=launcher != "basic")
        assert command.wait(200) == 0, command.output
        _has_arrived(folder, known, 2, are_workers=launcher != "basic", differ=way == "swept")
        for path in Path(short).rglob("*.*"):
            if path.is_file() and not path.is_symlink():
                shutil.copy(path, folder / f"ray-{path.name}")
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _has_arrived(
    folder: Path, known: list[str | None], jobs: int, *, are_workers: bool = False, differ: bool = False
) -> None:
    """Raises AssertionError unless the tracker of each job got the real values; deletes the command's own line."""
    digests = [path.read_text() for path in folder.glob("outputs/*/arrived-*")]
    ways = [known, [known[0].replace("host", "other"), *known[1:3], known[1]]] if differ and known[0] else [known]
    if differ:
        ways[0] = [*known[:3], known[1]]
    expected = {hashlib.sha256(repr(way).encode()).hexdigest() for way in ways}
    assert len(digests) >= jobs and set(digests) == expected, digests
    for path in folder.glob("multirun/*/cmdline-*" if are_workers else "*/*/cmdline-*"):
        path.unlink()  # what a user types is seen by others while it runs


def _experiment(folder: Path, settings: dict[str, object]) -> str:
    """A folder of configs of the user's own, which may have the secret."""
    given = folder / "given" / "mine" / "it.yaml"
    given.parent.mkdir(parents=True)
    given.write_text(f"# @package _global_\n{json.dumps(settings)}\n")
    return str(given.parents[1])


def _quoted(value: str) -> str:
    """The value as Hydra takes any text; a backslash stays single unless a quote follows it."""
    return QuotedString(value, Quote.double).with_quotes()


def _stands_nowhere(folder: Path, letters: str, secret: str) -> None:
    """Raises AssertionError where a file has the secret, or a half of it, in whatever form."""
    halves = (letters[:12], letters[12:])
    wanted = {form.encode() for text in (secret, *halves) for form in _forms(text)}
    for path in folder.rglob("*"):
        if path.is_file() and "given" not in path.relative_to(folder).parts:
            for where, content in _contents(path.read_bytes()):
                found = [form for form in wanted if form in content]
                assert not found, f"{path.relative_to(folder)}{where} has {found[0]!r}"


def _forms(text: str) -> Iterator[str]:
    yield from (
        text,
        quote(text, safe=""),
        quote_plus(text),
        json.dumps(text)[1:-1],
        repr(text)[1:-1],
        html.escape(text),
    )
    for shift in range(3):  # base64 of a text with others around it; the ends depend on these
        encoded = base64.b64encode(b"\0" * shift + text.encode()).decode().rstrip("=")
        yield encoded[4 if shift else 0 : -2]


def _contents(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What a file holds, and what the archives in it do."""
    yield "", content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield f":{name}", archive.read(name)


ROWS = (
    Row(
        name="X3",
        fault="a secret in a setting, a yaml, the environment or an error; single runs, basic, joblib, submitit, Ray",
        must_hold="it arrives where it is used, and stands in no file, store, pickle, log or output",
        full=40,
        ci=10,
        trial=_trial,
    ),
)
