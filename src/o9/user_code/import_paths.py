"""Resolves import paths, `package.module:name`, without leaving that module.

Contract. The name after the colon is an attribute of the module, or of a class in it (`desk:Desk.objective`).
Attributes of modules, functions and objects are not followed, so that a module's imports give no access to other code.
Runs in nodes and in child processes, so it imports little. An exception from importing the module is raised unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

from o9.text.suggest import hint_of


class ImportPathError(Exception):
    """The path does not lead to anything that may be used. The message says why."""


def find(path: str, is_allowed: Callable[[str], bool] = lambda module: True) -> Any:
    """Return the object. `is_allowed` checks the module of each class on the path. Raises ImportPathError."""
    module_name, _, names = path.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{names}".split(".")):
        raise ImportPathError("it is not an import path such as package.module:function")
    target = import_module(module_name)
    holder = module_name
    for depth, name in enumerate(names.split(".")):
        if depth and not (isinstance(target, type) and is_allowed(module_of(target))):
            raise ImportPathError(
                f"{holder!r} is not a class of that module, so {name!r} is not looked up in it; put the module that "
                "defines the function before the colon, or register the function by name"
            )
        try:
            target = getattr(target, name)
        except AttributeError:
            raise ImportPathError(f"{holder} has no {name!r}{hint_of(name, dir(target))}") from None
        holder = name
    return target


def module_of(thing: Any) -> str:
    """Return the module that defines a function, a class, or an object's class; "" if unknown.

    A decorated function has it by functools.wraps; for a functools.partial it is that of its function.
    """
    while isinstance(thing, functools.partial):
        thing = thing.func
    module = getattr(thing, "__module__", None)
    return module if isinstance(module, str) else ""
