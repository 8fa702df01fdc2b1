"""docs/reference/cli.md, made from the commands themselves by `python -m arraycodec.cli.reference`.

Not the output of `--help`, whose layout is typer's and changes with its version.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from arraycodec.cli.app import app
from arraycodec.cli.failures import EXIT_CODES

HEAD = """# The command `arraycodec`

<!-- Made by `python -m arraycodec.cli.reference`; a test compares. -->

`pip install "arraycodec[cli]"`. Tables go to stdout, the progress bar and errors to stderr, the bar only where that is
a terminal. `--json` prints JSON with stable keys. `NO_COLOR=1` turns colours off. An error is one line that names the
file and the tensor; `ARRAYCODEC_DEBUG=1` shows the traceback too. `--install-completion` sets up your shell.
"""


def markdown() -> str:
    """The whole page."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts = [HEAD, _exit_codes(), *(_command(name, command) for name, command in commands.items())]
    return "\n".join(parts)


def _exit_codes() -> str:
    codes = EXIT_CODES.removeprefix("Exit codes: ").rstrip(".").split(", ")
    rows = (f"| {code} | {meaning} |" for code, _, meaning in (text.partition(" ") for text in codes))
    return "| exit code | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
    usage = " ".join([f"arraycodec {name}", *(_shown(p) for p in arguments)])
    rows = [f"| `{_shown(p)}` | {p.help} |" for p in arguments] + [*map(_option, options)]
    example = (command.epilog or "").removeprefix("Example: ")
    lines = [
        f"## {name}",
        "",
        f"`{usage} [OPTIONS]`",
        "",
        command.help,
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        f"```\n{example}\n```",
    ]
    return "\n".join([*lines, ""])


def _shown(argument: Any) -> str:
    text = argument.metavar or argument.name.upper()
    return text if argument.required else f"[{text}]"


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in _names(option)).replace("|", r"\|")  # a bare one would end the cell
    default = f" Default: `{option.default}`." if isinstance(option.default, str) else ""
    repeat = " May be repeated." if option.multiple else ""
    return f"| {names} | {option.help}{repeat}{default} |"


def _names(option: Any) -> Iterator[str]:
    value = "" if option.is_flag else " " + (option.metavar or option.name.upper())
    for name in sorted(option.opts, key=len):
        yield name + value
    yield from option.secondary_opts


if __name__ == "__main__":
    print(markdown(), end="")
