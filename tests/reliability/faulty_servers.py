"""Servers on 127.0.0.1 that do what a tracking server should not, each in threads of the trial's own process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[[socket.socket], None]


def _silent(connection: socket.socket) -> None:
    """Reads, and never answers."""
    while connection.recv(65536):
        pass


def _deaf(connection: socket.socket) -> None:
    """Neither reads nor answers."""
    time.sleep(300)


def _dripping(head: bytes, byte: bytes) -> Answer:
    """A byte now and then: each wait for one is short, and the answer never ends."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
        while True:
            connection.sendall(byte)
            time.sleep(0.3)

    return answer


def _saying(status: str, more: str = "") -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 {status}\r\n{more}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())

    return answer


def _closing(connection: socket.socket) -> None:
    """Hangs up in the middle of a request, as a server that is killed does."""
    connection.recv(10)


ANSWERS: dict[str, Answer] = {
    "silent": _silent,
    "deaf": _deaf,
    "dripping": _dripping(b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n", b" "),
    "dripping headers": _dripping(b"X: ", b"x"),
    "401": _saying("401 Unauthorized"),
    "503": _saying("503 Service Unavailable", "Retry-After: 3600\r\n"),
    "hanging up": _closing,
}


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """A block in which a port of this machine, which it gets, answers so."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        threading.Thread(target=_accept, args=(listening, answer), daemon=True).start()
        yield listening.getsockname()[1]


def _accept(listening: socket.socket, answer: Answer) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # closed
            return
        threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()


def _answer(connection: socket.socket, answer: Answer) -> None:
    try:
        with connection:
            answer(connection)
    except OSError:  # the other side has hung up
        pass


def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
