"""Fingerprints of the code of objectives and strategies, equal as long as the code is unchanged.

Contract. A fingerprint covers the whole file that defines the object, as it is now, because that is what a fresh
process runs; without a file (a notebook's cell, a prompt) it covers the compiled code. It does not cover imported
modules, library versions, the interpreter, or data read at run time. It is "" if there is neither, as for C code.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any


def code_fingerprint(thing: Any) -> str:
    """Return the fingerprint of a function, a class, or an object's class, without decorators and partials."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    defined = inspect.unwrap(thing) if callable(thing) else thing
    if not (inspect.isroutine(defined) or inspect.isclass(defined)):
        defined = type(defined)
    digest = hashlib.blake2b(digest_size=16)
    try:
        digest.update(Path(inspect.getfile(defined)).read_bytes())
    except (OSError, TypeError):
        code = list(_compiled(defined))
        if not code:
            return ""
        for part in code:
            digest.update(part)
    return digest.hexdigest()


def _compiled(defined: Any) -> Iterator[bytes]:
    functions = [defined] if not inspect.isclass(defined) else [vars(defined)[name] for name in sorted(vars(defined))]
    for function in functions:
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield from _of_code(code)


def _of_code(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)
        else:
            yield repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant).encode()
