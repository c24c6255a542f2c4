"""Creating files that only their owner can read: the record, its copies and reports."""

from __future__ import annotations

import contextlib
import os


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a new file gets the mode 0600; an existing one keeps its mode.

    Run by root, it gives a new file to the folder's owner, as SQLite does with the files beside a database. Otherwise
    `sudo o9 …` would lock users out of their own folders.
    """
    try:
        descriptor = os.open(path, flags | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags, 0o600)
    if os.geteuid() == 0:
        folder = os.stat(os.path.dirname(os.path.abspath(path)))
        if folder.st_uid != 0:
            with contextlib.suppress(OSError):  # on file systems without owners, the file stays root's
                os.fchown(descriptor, folder.st_uid, folder.st_gid)
    return descriptor
