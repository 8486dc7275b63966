"""Out of memory, in words: what did not fit, and the settings that make it smaller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resnet_exp.interfaces import RunError, first_line

# torch.OutOfMemoryError, cuBLAS and cuDNN on a GPU; torch's plain RuntimeError on the CPU.
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
SMALLER = "take a smaller model or a smaller train.batch_size, or free memory that other programs use"
_MAX_LETTERS = 200  # of the error's own message


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the device or of the host, was not enough."""
    if isinstance(error, RunError):  # told already
        return False
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(x in str(error) for x in _SAID))


@contextmanager
def memory_told(what: str, smaller: str) -> Iterator[None]:
    """A block in which a lack of memory is a RunError in words; other errors pass.

    Args:
        what: what the block does, as in "training at train.batch_size=512".
        smaller: what the user can do.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f"out of memory while {what} ({first_words(error)}); {smaller}") from None


def first_words(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return first_line(error)[:_MAX_LETTERS]
