"""A tracker that gives its secrets away in every way that a library has, and shows by a digest that it got them."""

import hashlib
import logging
import os
import threading
import traceback
import warnings
from pathlib import Path

from resnet_exp.interfaces import Mirror


class Telling:
    """Tells what it knows: prints it, logs it, warns of it and raises it."""

    def __init__(self, uri: str | None = None, token: str | None = None, auth: dict | None = None) -> None:
        self.known = [uri, token, (auth or {}).get("password"), os.environ.get("X3_TOKEN")]

    def open(self, run_dir, label):
        digest = hashlib.sha256(repr(self.known).encode()).hexdigest()
        (run_dir / f"arrived-{os.getpid()}").write_text(digest)
        # What other users of the machine see of this process, where it is a worker.
        (run_dir / f"cmdline-{os.getpid()}").write_bytes(Path("/proc/self/cmdline").read_bytes())
        return Told(self.known)


class Told(Mirror):
    """Raises at the end, when there is a run to lose."""

    def __init__(self, known) -> None:
        self._known = known

    def end(self):
        text = f"no way to {self._known[0]} with token={self._known[1]} or {self._known[2:]!r}"
        print(text)
        logging.getLogger("somebody.elses").warning("%s", text)
        warnings.warn(text, stacklevel=1)
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger("somebody.elses").exception("it failed")
            traceback.print_exc()
        thread = threading.Thread(target=self._raise, args=(text,))
        thread.start()
        thread.join()
        raise RuntimeError(text)

    def _raise(self, text):
        raise KeyError(text)
