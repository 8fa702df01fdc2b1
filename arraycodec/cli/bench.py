"""The command `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arraycodec.cli.options import Json


def bench(
    file: Annotated[Path | None, typer.Argument(help="Measure on the tensors of this .safetensors file.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLS", help="The matrix to measure on: 4096x11008, with --formats 4096x4096."),
    ] = None,
    schemes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these (with --formats: formats); all if not given.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few repetitions, float32, no peers: a first look.")] = False,
    lossless: Annotated[
        bool,
        typer.Option("--lossless", help="Of FILE only the lossless part: every mode, and peers on the whole file."),
    ] = False,
    formats: Annotated[
        bool,
        typer.Option(
            "--formats", help="Formats of compressed-tensors and GGUF in place of schemes, beside their libraries."
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="DIR",
            help="Write results.md and four plots here, with --formats the tables of checkpoints.md; without FILE.",
        ),
    ] = None,
    rates: Annotated[
        Path | None,
        typer.Option(
            "--rates",
            metavar="DIR",
            help="Only bits and SNR, of FILE or the sample of this package: table and plot, with the Gaussian bound, "
            "as rate_distortion.md and .png here.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed and error of every scheme on this machine, beside a plain copy and other libraries.

    With a FILE and no --schemes every lossless mode too, on the whole file. Of the others those that are installed:
    the extra `peers` brings them, the extra `plot` what draws the plots.
    """
    from arraycodec.cli import render, views_bench

    if rates is not None:
        if shape or quick or lossless or formats or folder is not None:
            raise typer.BadParameter("goes with FILE, --schemes and --json only", param_hint="--rates")
        _rates(file, schemes, rates, as_json)
        return
    if formats:
        if file is not None or lossless:
            raise typer.BadParameter("goes without FILE and --lossless", param_hint="--formats")
        _formats(shape, schemes, quick, folder, as_json)
        return
    if folder is not None:
        _results(file, shape, schemes, quick, folder, as_json)
        return
    from arraycodec.checkpoints.bench import bench
    from arraycodec.checkpoints.bench_lossless import bench_lossless, unfit

    if lossless and (file is None or schemes):
        raise typer.BadParameter("goes with a FILE, and without --schemes", param_hint="--lossless")
    size, names = _shape(shape), schemes.split(",") if schemes else None
    with render.status("measuring", not as_json) as say:
        found = None if lossless else bench(file, size, names, quick=quick, say=say)
        wanted = lossless or (file is not None and not schemes and unfit(file) is None)
        whole = bench_lossless(file, quick=quick, say=say) if wanted and file else None
    if as_json:
        own = {"lossless": whole.to_json()} if whole else {}
        render.emit_json((found.to_json() if found else {}) | own)
        return
    if found:
        views_bench.bench(found)
    if whole:
        views_bench.lossless(whole)


def _results(
    file: Path | None, shape: str | None, schemes: str | None, quick: bool, folder: Path, as_json: bool
) -> None:
    from arraycodec.checkpoints.bench_page import writable, write
    from arraycodec.checkpoints.bench_results import results
    from arraycodec.cli import render, views_bench

    if file is not None:
        raise typer.BadParameter("is measured without --results, which makes a matrix of its own", param_hint="FILE")
    size, folder = _shape(shape), writable(folder)
    with render.status("measuring", not as_json) as say:
        found = results(size, schemes.split(",") if schemes else None, quick=quick, say=say)
    written = write(found, folder)
    if as_json:
        render.emit_json(found.to_json())
    else:
        views_bench.results(found, written)


def _rates(file: Path | None, schemes: str | None, folder: Path, as_json: bool) -> None:
    from arraycodec.checkpoints.bench_page import writable
    from arraycodec.checkpoints.rates import rates
    from arraycodec.cli import render, views_bench

    folder = writable(folder)
    from arraycodec.checkpoints.rates_page import write

    with render.status("measuring", not as_json) as say:
        found = rates(file, schemes.split(",") if schemes else None, say=say)
    written = write(found, folder)
    if as_json:
        render.emit_json(found.to_json())
    else:
        views_bench.rates(found, written)


def _formats(shape: str | None, schemes: str | None, quick: bool, folder: Path | None, as_json: bool) -> None:
    from arraycodec.checkpoints.bench import parse_shape
    from arraycodec.checkpoints.bench_formats import FORMATS_SHAPE, bench_formats
    from arraycodec.checkpoints.bench_formats_page import write
    from arraycodec.cli import render, views_bench

    size = parse_shape(shape) if shape else FORMATS_SHAPE
    with render.status("measuring", not as_json) as say:
        found = bench_formats(size, schemes.split(",") if schemes else None, quick=quick, say=say)
    written = write(found, folder) if folder is not None else None
    if as_json:
        render.emit_json(found.to_json())
    else:
        views_bench.formats(found, written)


def _shape(shape: str | None) -> tuple[int, int]:
    from arraycodec.checkpoints.bench import DEFAULT_SHAPE, parse_shape

    return parse_shape(shape) if shape else DEFAULT_SHAPE
