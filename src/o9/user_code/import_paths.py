"""What `package.module:name` names, without a way out of that module.

Contract. The name after the colon is an attribute of the module, or of a class in it (`desk:Desk.objective`). What
modules, functions and objects merely hold is out of reach, so a module's own imports give no access to other code. Runs
in nodes and in child processes, so it imports little. What the module raises on its import is raised unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

from o9.text.suggest import hint_of


class ImportPathError(Exception):
    """The path does not name anything that may be used; says why."""


def find(path: str, is_allowed: Callable[[str], bool] = lambda module: True) -> Any:
    """The object. `is_allowed` is asked of the module of each class on the way to it. Raises ImportPathError."""
    module_name, _, names = path.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{names}".split(".")):
        raise ImportPathError("it is not an import path such as package.module:function")
    target = import_module(module_name)
    holder = module_name
    for depth, name in enumerate(names.split(".")):
        if depth and not (isinstance(target, type) and is_allowed(module_of(target))):
            raise ImportPathError(
                f"{holder!r} is no class of that module, and only such a class is searched for {name!r}; name the "
                "module that defines the function before the colon, or register the function by name"
            )
        try:
            target = getattr(target, name)
        except AttributeError:
            raise ImportPathError(f"{holder} has no {name!r}{hint_of(name, dir(target))}") from None
        holder = name
    return target


def module_of(thing: Any) -> str:
    """The module that defines a function, a class, or an object's class; "" where that is not known.

    What decorates a function says so itself (functools.wraps); a functools.partial is where its function is.
    """
    while isinstance(thing, functools.partial):
        thing = thing.func
    module = getattr(thing, "__module__", None)
    return module if isinstance(module, str) else ""
