"""Turn any error into a message for the user and an exit code for the shell."""

from __future__ import annotations

import os
import sys
import traceback
from itertools import takewhile

from o9.model.errors import OptimizationError
from o9.model.urls import public_text
from o9.text.escape import one_line, shown

DONE, ERROR, USAGE, NOT_COMPLETED, INTERRUPTED = 0, 1, 2, 3, 130

# Set by --verbose and --quiet, which every command has.
verbose = False
quiet = False
# With --help, the modules of commands skip the imports that only their work needs, which take a second.
help_only = not {"-h", "--help"}.isdisjoint(takewhile("--".__ne__, sys.argv[1:]))


class Interrupted(OptimizationError):
    """Ctrl-C with a message: exit code 130. Typer swallows a bare KeyboardInterrupt."""


def report(error: BaseException) -> int:
    """Print the error on stderr, with the traceback if `verbose`, and return the exit code."""
    # Typer and rich turn a broken pipe into a SystemExit of their own.
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return _leave_broken_pipe()
    message, code = explain(error)
    if verbose and code in (ERROR, NOT_COMPLETED):
        print(public_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    try:
        sys.stdout.flush()
        lines = "\n".join(f"o9: {shown(line)}" for line in message.splitlines() or [""])
        # A group without a subcommand prints its help, unchanged.
        is_help = type(error).__name__ == "NoArgsIsHelpError"
        print(error.format_message() if is_help else lines, file=sys.stderr)  # type: ignore[attr-defined]
    except BrokenPipeError:
        return _leave_broken_pipe()
    return code


def explain(error: BaseException) -> tuple[str, int]:
    """Return the message, without passwords in URLs, and the exit code for `error`."""
    message, code = _explain(error)
    return public_text(message), code


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ in ("Abort", "TerminationSignal"):
        return "interrupted", INTERRUPTED
    if isinstance(error, Interrupted):
        return str(error), INTERRUPTED
    if isinstance(error, OptimizationError):  # a line for each of several faults
        return "\n".join(one_line(line) for line in str(error).splitlines()), ERROR
    if isinstance(error, SystemExit):
        return f"user code called sys.exit({error.code!r}); an objective must return a value", ERROR
    # By attribute: typer moves these classes from release to release.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        message = one_line(error.format_message()).rstrip(".").removeprefix("Invalid value: ")
        message = message.replace("Value error, ", "").replace("Input should be", "must be")
        if message[:2].istitle():  # not METRIC
            message = message[0].lower() + message[1:]
        where = context.command_path if (context := getattr(error, "ctx", None)) else "o9"
        return f"{message} (see `{where} --help`)", USAGE
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, ERROR
    hint = "" if verbose else "; run the command again with --verbose for the traceback"
    return f"unexpected {type(error).__name__}: {one_line(str(error)) or 'no message'}{hint}", ERROR


def _leave_broken_pipe() -> int:
    """End quietly, since the reader of stdout has closed it, as `head` does."""
    # Python flushes stdout again at exit, which would print an error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE
