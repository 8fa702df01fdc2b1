"""The generated tables of README.md and docs/, between `<!-- table:NAME -->` and `<!-- /table -->`.

`python docs/generate.py` rewrites what is out of date; with `--check` it only says what is, and exits with 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec, Then
from arraycodec.primitives import codebooks
from arraycodec.spec import DTYPES, ArraySpec, numpy_dtype

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table -->)", re.S)
MATRIX = ArraySpec((4096, 4096), "float32")


def claims() -> Iterator[tuple[str, str, str]]:
    """(what runs, codec, module that implements it) as the backends declare them."""
    from arraycodec_jax.implementations import CODECS
    from arraycodec_torch.implementations import PLAIN, TRITON

    for what, modules in (("torch ops", PLAIN), ("Triton kernel", TRITON)):
        yield from ((what, codec, module) for codec, module in modules.items())
    yield from (("jnp", codec, module.__name__) for codec, module in CODECS.items())


def codecs() -> list[list[str]]:
    """Every registered codec, its schemes, and what runs on the arrays of each framework."""
    columns = {"NumPy": (), "torch": ("torch ops",), "CUDA": ("Triton kernel", "torch ops"), "JAX": ("jnp",)}
    there = {(what, codec) for what, codec, _ in claims()}
    rows = [["codec", "schemes", *columns]]
    for name in registry.CODECS:
        schemes = ", ".join(f"`{scheme}`" for scheme, codec in registry.SCHEMES.items() if _outer(codec).name == name)
        cells = []
        for column, kinds in columns.items():
            on_cpu = [] if column == "CUDA" else ["reference"]
            cells.append(", ".join([*on_cpu, *(what for what in kinds if (what, name) in there)]) or "none")
        rows.append([f"[{name}](docs/format/{name}.md)", schemes, *cells])
    return rows


def schemes() -> list[list[str]]:
    """Every scheme, the codec it names, and its size on a matrix."""
    rows = [["scheme", "codec", "bits per element"]]
    for name, codec in registry.SCHEMES.items():
        nbytes = sum(plane.nbytes for plane in codec.planes(MATRIX).values())
        rows.append([f"`{name}`", f"`{codec!r}`", f"{8 * nbytes / MATRIX.size:.6g}"])
    return rows


def dtypes() -> list[list[str]]:
    """The dtype table of `arraycodec.spec`."""
    rows = [["dtype", "bits", "in safetensors", "in torch", "NumPy dtype from"]]
    for row in DTYPES.values():
        kind = numpy_dtype(row.name).type.__module__ if row.bits % 8 == 0 else "none: packed in uint8"
        rows.append([f"`{row.name}`", str(row.bits), row.safetensors or "none", row.torch or "none", kind])
    return rows


def nf4() -> list[list[str]]:
    """NF4 by code."""
    return _ranked(["code", "value", "", "bound above", ""], [codebooks.table("nf4")])


def fp4() -> list[list[str]]:
    """FP4 by rank, both flavours."""
    tables = [codebooks.table("fp4"), codebooks.table("fp4", "bnb-cpu")]
    titles = ["rank", "value", "", "code", "bound above", "", 'code, `"bnb-cpu"`', "bound above", ""]
    return _ranked(titles, tables)


def _ranked(titles: list[str], tables: list[codebooks.Table]) -> list[list[str]]:
    rows = [titles]
    for rank in range(16):
        row = [str(rank), *_number(tables[0].values[tables[0].codes[rank]])]
        for table in tables:
            code = [str(table.codes[rank])] if len(tables) > 1 else []
            row += [*code, *(_number(table.bounds[rank]) if rank < 15 else ["none", ""])]
        rows.append(row)
    return rows


def _number(x: Any) -> list[str]:
    return [f"`{int(x.view(np.uint32)):08x}`", f"{float(x):.9g}"]


def _outer(codec: Codec) -> Codec:
    return _outer(codec.outer) if isinstance(codec, Then) else codec


TABLES = {table.__name__: table for table in (codecs, schemes, dtypes, nf4, fp4)}


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table; its first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def updated(text: str) -> str:
    """A page with its tables as they should be."""
    return MARKED.sub(lambda found: f"{found[1]}{markdown(TABLES[found[2]]())}{found[3]}", text)


def pages() -> list[Path]:
    """The pages that have generated tables."""
    candidates = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in candidates if "_build" not in page.parts and MARKED.search(page.read_text())]


def main(arguments: list[str]) -> int:
    """Rewrite what is out of date, or with --check name it."""
    if set(arguments) - {"--check"}:
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    stale = [page for page in pages() if updated(page.read_text()) != page.read_text()]
    for page in stale:
        if not arguments:
            page.write_text(updated(page.read_text()))
        print(f"{'out of date' if arguments else 'written'}: {page.relative_to(ROOT)}")
    return 1 if arguments and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
