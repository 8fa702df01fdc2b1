"""Sphinx: `sphinx-build -W -b html docs docs/_build`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "backends"), str(ROOT / "conformance")]

import arraycodec  # noqa: E402  # the checkout's own, whatever is installed

project = "arraycodec"
version = release = arraycodec.__version__
copyright = "arraycodec contributors"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"arraycodec {version}"
default_role = "code"  # docstrings write code between single backticks, as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_display_short_literal_types = True
autodoc_default_options = {"members": True, "show-inheritance": True}

ENTRY = re.compile(r"(\w+(?:, \w+)*) {2,}(\S.*)")


def restructure(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Rewrite our docstrings as reStructuredText.

    A table of arguments, `name   what it is`, becomes a definition list; other indented lines are set as they are.
    """
    found: list[str] = []
    state = "text"  # or "doctest", "list", "literal"
    for line in lines:
        entry = ENTRY.fullmatch(line)
        if line.startswith(">>>") or (state == "doctest" and line):
            state, new = "doctest", [line]
        elif entry:
            state, new = "list", ["", f"`{entry[1]}`", f"    {entry[2]}"]
        elif line.startswith("  ") and state == "list":
            new = [f"    {line.strip()}"]
        elif line.startswith("  "):
            state, new = "literal", [line] if state == "literal" else ["", "::", "", line]
        else:
            state, new = "text", ["", line] if state != "text" else [line]
        found += new
    lines[:] = found


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_lexer("vector", TextLexer)
    app.connect("autodoc-process-docstring", restructure)
