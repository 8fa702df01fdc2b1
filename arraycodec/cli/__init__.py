"""The command `arraycodec`; what it does is `arraycodec.checkpoints`, here is only what a terminal adds."""

from __future__ import annotations

import io
import os
import sys

NEEDS_EXTRA = 4


def main() -> None:
    """Run the command line; every way out is an exit code of `arraycodec --help`, never a traceback."""
    try:
        from arraycodec.cli.app import app
        from arraycodec.cli.failures import leave, report
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(
            f'arraycodec: the command line needs {error.name}, please run: pip install "arraycodec[cli]"',
            file=sys.stderr,
        )
        sys.exit(NEEDS_EXTRA)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no "→" gets an escape, not an error
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="arraycodec")
    except (Exception, KeyboardInterrupt) as error:  # what goes wrong outside a command: its parsing, the last flush
        if os.environ.get("ARRAYCODEC_DEBUG") == "1":
            raise
        leave(report(error))


__all__ = ["main"]
