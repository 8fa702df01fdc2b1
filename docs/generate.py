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
from arraycodec.codecs.microscaling import FORMAT_NAMES, INT8, Microscaling
from arraycodec.primitives import codebooks
from arraycodec.primitives.formats import FORMATS, values
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
            cell = ", ".join([*on_cpu, *(what for what in kinds if (what, name) in there)]) or "none"
            own = registry.CODECS[name]()
            always = own.trained and "codebook" in own.computed  # found anew in every array
            eager = column == "JAX" and (always or not own.fixed_size(MATRIX))
            cells.append(f"{cell} (jit: decoding only)" if eager else cell)
        rows.append([f"[{name}](docs/format/{name}.md)", schemes, *cells])
    return rows


def schemes() -> list[list[str]]:
    """Every scheme, the codec it names, and its size on a matrix."""
    rows = [["scheme", "codec", "bits per element"]]
    for name, codec in registry.SCHEMES.items():
        planes = codec.planes(MATRIX).values()
        fixed = all(plane.fixed for plane in planes)
        bits = f"{8 * sum(plane.nbytes for plane in planes) / MATRIX.size:.6g}" if fixed else "by the data"
        rows.append([f"`{name}`", f"`{codec!r}`", bits])
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


def af4() -> list[list[str]]:
    """AF4 by rank."""
    return _ranked(["rank", "value", "", "code", "bound above", ""], [codebooks.table("af4")])


def _ranked(titles: list[str], tables: list[codebooks.Table]) -> list[list[str]]:
    rows = [titles]
    for rank in range(16):
        row = [str(rank), *_number(tables[0].values[tables[0].codes[rank]])]
        for table in tables:
            code = [str(table.codes[rank])] if "code" in titles[1:] else []
            row += [*code, *(_number(table.bounds[rank]) if rank < 15 else ["none", ""])]
        rows.append(row)
    return rows


def mx() -> list[list[str]]:
    """The element formats of microscaling."""
    rows = [["format", "bits", "largest number", "emax", "smallest numbers: normal, subnormal", "infinity, NaN"]]
    for name in sorted(FORMAT_NAMES, key=lambda name: Microscaling(name).bits):
        bits, emax = Microscaling(name).bits, Microscaling(name).rule("float32").emax
        if name == INT8:
            rows.append([f"`{name}`", str(bits), "127/64", str(emax), "1/64", "neither"])
            continue
        form, table = FORMATS[name], values(name)[: 1 << (bits - 1)]
        infinite, nan = (np.flatnonzero(mask) for mask in (np.isinf(table), np.isnan(table)))
        codes = [f"{what} `{found[0]:02x}`" + (f" to `{found[-1]:02x}`" if found.size > 1 else "")
                 for what, found in (("infinity", infinite), ("NaN", nan)) if found.size]  # fmt: skip
        smallest = ", ".join(_small(table[code]) for code in (1 << form.mantissa, 1))
        rows.append([f"`{name}`", str(bits), f"{form.largest:g}", str(emax), smallest, ", ".join(codes) or "neither"])
    return rows


def e2m1() -> list[list[str]]:
    """The values of float4_e2m1fn by code."""
    table = values("float4_e2m1fn")
    return [["code", *map(str, range(8)), "8 to 15"], ["value", *(f"{v:g}" for v in table[:8]), f"-0 to {table[15]:g}"]]


def formats() -> list[list[str]]:
    """The formats of minifloat."""
    rows = [["format", "bits", "exponent", "mantissa", "bias", "largest number", "smallest: normal, subnormal",
             "infinity", "NaN", "negative zero"]]  # fmt: skip
    for name, form in FORMATS.items():
        table, half = values(name), 1 << (form.bits - 1)
        infinite, nan = (
            [f"`{code:02x}`" for code in np.flatnonzero(mask)] for mask in (np.isinf(table), np.isnan(table))
        )
        canonical = [f"**{code}**" if code == f"`{form.nan_code or 0:02x}`" else code for code in nan]
        largest = f"{form.largest:g}, code `{form.max_code:02x}`"
        smallest = ", ".join(_small(table[code]) for code in (1 << form.mantissa, 1))
        zero = f"`{half:02x}`" if form.signed_zero else "none"
        widths = map(str, (form.bits, form.exponent, form.mantissa, form.bias))
        codes = (", ".join(found) or "none" for found in (infinite, canonical))
        rows.append([f"`{name}`", *widths, largest, smallest, *codes, zero])
    return rows


def _small(x: np.float32) -> str:
    """A power of two."""
    return f"{x:g}" if x > 0.01 else f"2<sup>{int(np.log2(x))}</sup>"


def _number(x: Any) -> list[str]:
    return [f"`{int(x.view(np.uint32)):08x}`", f"{float(x):.9g}"]


def _outer(codec: Codec) -> Codec:
    return _outer(codec.outer) if isinstance(codec, Then) else codec


TABLES = {table.__name__: table for table in (codecs, schemes, dtypes, nf4, fp4, af4, mx, e2m1, formats)}


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
