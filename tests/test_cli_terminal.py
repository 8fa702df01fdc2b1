"""The command line on a terminal and off it: help, colours, the progress bar, encodings, and what is imported."""

import io
import os
import subprocess
import sys

import pytest

pytest.importorskip("typer")

from rich.console import Console

import arraycodec as ac
from arraycodec import registry
from arraycodec.checkpoints.inventory import inventory
from arraycodec.cli import render, views
from arraycodec.cli.reference import markdown
from tests.checkpoints.support import model, write
from tests.test_cli import COMMANDS, ROOT, process, run


@pytest.fixture
def src(tmp_path):
    return write(tmp_path / "model.safetensors", model())


@pytest.fixture
def packed(src):
    ac.compress(src, src.with_name("packed.safetensors"))
    return src.with_name("packed.safetensors")


@pytest.mark.parametrize("command", [[], *[[name] for name in COMMANDS]])
def test_help(command):
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "") and "Usage:" in out
    assert run(*command, "-h")[1] == out
    assert not command or f"arraycodec {command[0]}" in out


def test_version_and_completion():
    assert run("--version")[1] == f"arraycodec {ac.__version__}\n"
    assert "--install-completion" in run("--help")[1]
    code, out, err = run()
    assert code in (0, 2) and "compress" in out + err  # with no arguments: the help


def test_the_page_of_the_commands_is_theirs():
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m arraycodec.cli.reference > docs/reference/cli.md"
    for command in COMMANDS:
        assert f"## {command}\n" in page


def test_no_colours_and_no_bar_where_there_is_no_terminal(src):
    done = process("compress", src, cwd=ROOT)
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr and done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize("no_colour", [False, True])
def test_colours_and_a_bar_on_a_terminal(src, no_colour):
    import pty

    main, other = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | {
        "TERM": "xterm",
        "COLUMNS": "90",
    }
    env |= {"NO_COLOR": "1"} if no_colour else {}
    command = [sys.executable, "-m", "arraycodec.cli", "compress", str(src), "-f"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=other, env=env, cwd=ROOT)
    os.close(other)
    out = child.stdout.read()
    child.stdout.close()
    assert child.wait(timeout=60) == 0 and b"\x1b[3" not in out  # stdout is a pipe: plain
    seen = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(main)
    assert b"compressing" in seen
    coloured = any(b"\x1b[%d" % code in seen for code in (31, 32, 35, 36)) or b"\x1b[38;5" in seen
    assert coloured != no_colour


def test_a_terminal_without_unicode_gets_escapes(src):
    done = process("compress", src, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0 and done.stdout.isascii() and "smaller" in done.stdout


HEAVY = ("torch", "jax", "jaxlib", "numba", "llvmlite", "triton", "matplotlib", "safetensors", "bitsandbytes", "scipy")


@pytest.mark.parametrize(
    ("args", "banned"),
    [
        (["--help"], ("numpy", "ml_dtypes", *HEAVY)),
        (["compress", "--help"], ("numpy", "ml_dtypes", *HEAVY)),
        (["--version"], ("numpy", *HEAVY)),
        (["info", "{packed}"], HEAVY),
        (["list"], HEAVY),
        (["verify", "{packed}"], HEAVY),
        (["compress", "{src}", "--dry-run"], HEAVY),
    ],
)
def test_what_is_imported(src, packed, args, banned):
    args = [arg.format(src=src, packed=packed) for arg in args]
    command = [sys.executable, "-X", "importtime", "-m", "arraycodec.cli", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & set(banned)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(rows, file, width):
    rows.show(Console(file=file, width=width, color_system=None))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 60, 80, 100, 120, 160])
def test_no_figure_is_cut(width):
    rows = render.table("~tensor", "?dtype", "?shape", ">order0", "?>lowest", ">gap", "|reason", title="Title")
    names = [f"model.layers.{i}.self_attn.{part}_proj.weight" for i in (0, 11) for part in "qk"]
    for i, name in enumerate(names):
        figures = (f"{i}23456.789", f"{i}3456.7891", f"{i}9876.543")
        rows.add_row(
            *map(render.cell, (name, "bfloat16", "4096 × 11008", *figures, "not in the base, so it is lossless"))
        )
    shown = lines(rows, Terminal(), width)
    text = "\n".join(shown)
    for i, name in enumerate(names):
        row = next(line for line in shown if f"{i}23456.789" in line)
        assert f"{i}9876.543" in row, "what does not fit is the terminal's to fold"
        cut = row.split()[0]
        assert cut == name if width == 160 else (name.endswith(cut.partition("…")[2]) and "…" in cut)
        assert width < 60 or f"{i}3456.7891" in row or "too narrow for: dtype, shape, lowest" in text
    assert width < 60 or max(map(len, shown)) <= width
    assert ("too narrow" in text) == (width < 120) and ("bfloat16" in text) == (width >= 120)
    piped = lines(rows, io.StringIO(), width)
    assert all(
        all(part in line for part in (name, "bfloat16", "lossless"))
        for name, line in zip(names, piped[-5:-1], strict=True)
    )


def test_schemes_are_whole_on_a_narrow_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(views, "console", lambda: Console(file=terminal, width=80, color_system=None))
    views.inventory(inventory())
    shown = terminal.getvalue().splitlines()
    for name in registry.SCHEMES:
        row = next(line for line in shown if line.split()[:1] == [name])
        assert row.split()[1] == "data-dependent" or float(row.split()[1]) > 1
        assert row.split()[2] in ("floats", "any", "real")
    assert max(map(len, shown)) <= 80 or "installed" in terminal.getvalue()


def test_figures_for_people():
    assert [render.size(n) for n in (0, 999, 1000, 99_949, 99_951, 12_948_032, 10**12)] == [
        "0 B", "999 B", "1.0 KB", "99.9 KB", "100 KB", "12.9 MB", "1.00 TB",
    ]  # fmt: skip
    assert render.decibels(float("inf")) == "exact" and render.decibels(20.727) == "20.73 dB"
    assert render.dimensions(()) == "scalar" and render.dimensions((2, 3)) == "2 × 3"
    groups = render.grouped(["a.0.x1", "a.1.x1", "b"], str, len)
    assert [(name, len(rows)) for name, rows in groups] == [("a.*.x1", 2), ("b", 1)]
