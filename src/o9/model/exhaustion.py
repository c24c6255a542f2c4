"""Whether an error means that the machine has run out of descriptors, processes or memory."""

from __future__ import annotations

import errno
import os

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_TEXTS = tuple(os.strerror(number) for number in EXHAUSTED)  # of a library that cannot be loaded there is nothing else


def is_exhausted(error: BaseException | None) -> bool:
    """By the error itself, or what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return True
        if isinstance(error, ImportError) and str(error).endswith(_TEXTS):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
