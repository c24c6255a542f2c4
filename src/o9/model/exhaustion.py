"""Whether an error says that the machine has run out of something: no fault of the code that met it."""

from __future__ import annotations

import errno
import os

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_TEXTS = tuple(os.strerror(number) for number in EXHAUSTED)  # of a library that cannot be loaded there is nothing else


def is_exhausted(error: BaseException | None) -> bool:
    """Descriptors, processes or memory, in the error or in what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return True
        if isinstance(error, ImportError) and str(error).endswith(_TEXTS):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
