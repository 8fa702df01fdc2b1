"""Exit codes, and errors as one line on stderr."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

OK, DIFFERENT, USAGE, CORRUPT, NEEDS, IO, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 5, 70, 130

EXIT_CODES = (
    "Exit codes: 0 ok, 1 difference or failed verification, 2 usage, 3 corrupt or hostile input, "
    "4 needs a newer version or an extra, 5 input/output, 130 interrupted."
)


class Group(TyperGroup):
    """Commands whose errors become a line and an exit code. ARRAYCODEC_DEBUG=1 shows tracebacks instead."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # typer's own ways out: Exit, Abort, and usage errors, which it prints itself
            if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message"):
                raise
            if os.environ.get("ARRAYCODEC_DEBUG") == "1":
                raise
            leave(report(error))
        except KeyboardInterrupt as error:
            leave(report(error))


def report(error: BaseException) -> int:
    """Print what went wrong, and return its exit code."""
    code, message = explain(error)
    if message:
        red, reset = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else ("", "")
        print(f"{red}arraycodec: error:{reset} {printable(message)}", file=sys.stderr)
    return code


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the message of an error."""
    from arraycodec import errors

    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; unfinished files were removed"
    if isinstance(error, BrokenPipeError):
        return IO, ""
    if isinstance(error, errors.VersionError | errors.UnsupportedByBackend):
        return NEEDS, str(error)
    if isinstance(error, errors.FormatError):
        return CORRUPT, str(error)
    if isinstance(error, errors.ArrayCodecError):
        return USAGE, str(error)
    if isinstance(error, FileExistsError):
        return USAGE, f"{error.filename}: exists already; -f overwrites it"
    if isinstance(error, OSError):
        told = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        return IO, f"{error.filename}: {told}" if error.filename else told
    if isinstance(error, MemoryError):
        return IO, "not enough memory"
    return INTERNAL, f"internal error: {type(error).__name__}: {error} (ARRAYCODEC_DEBUG=1 shows where)"


def leave(code: int) -> NoReturn:
    """Exit; a reader of our output that went away (`| head`) must not cause a second error."""
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def printable(text: str) -> str:
    r"""Text from a file or a path, fit for a terminal: control and bidi characters as escapes.

    >>> printable("w\x1b[2J")
    'w\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
