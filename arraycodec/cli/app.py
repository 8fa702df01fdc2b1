"""The commands: their arguments and help. Imports are inside, so that `--help` loads neither NumPy nor a framework."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from arraycodec.cli.bench import bench
from arraycodec.cli.convert import convert
from arraycodec.cli.failures import DIFFERENT, EXIT_CODES, Group
from arraycodec.cli.options import Base, Config, Every, Force, Jobs, Json, Quiet, Source

app = typer.Typer(
    name="arraycodec",
    cls=Group,
    help="Compress the weights of neural networks: quantised or lossless, checksummed, as valid safetensors files.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        import arraycodec

        print(f"arraycodec {arraycodec.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


class Mode(StrEnum):
    """How `compress` codes losslessly; the names are those of `checkpoints.scheme.MODES`."""

    balanced = "balanced"
    storage = "storage"
    inference = "inference"


@app.command(epilog="Example: arraycodec compress model.safetensors --mode balanced")
def compress(
    src: Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DST",
            help="Default: SRC.X.safetensors, for a folder SRC-X; X is the scheme, with a mode lossless, "
            "lossless-storage or lossless-inference, with a base delta.",
        ),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            "-s",
            help="A scheme, or a codec's name for its default parameters: `arraycodec list` shows all. nf4 if neither "
            "it nor a mode nor a base is given.",
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            "--mode",
            "-m",
            metavar="balanced|storage|inference",
            help="Lossless: every tensor, or the codes and scales of a scheme.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", "-b", metavar="BASE", help="Store exact differences to this checkpoint."),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Encode tensors of such names whatever rank and size.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave such names plain; of two that match the longer wins."),
    ] = None,
    importance: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For schemes of lut, pqr and tcq: how much errors in each column count, a float32 vector for each of "
            "some tensors, by their names, in a .safetensors file.",
        ),
    ] = None,
    jobs: Jobs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show decisions and sizes; write nothing.")] = False,
    every: Every = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Compress a checkpoint. The input is never changed.

    A scheme encodes matrices and leaves all else as it is. A mode codes all tensors losslessly, and decompress gives
    the very same files back.
    """
    from arraycodec.checkpoints.compress import compress
    from arraycodec.checkpoints.files import default_target
    from arraycodec.checkpoints.scheme import request
    from arraycodec.cli import render, views

    lossless = mode and mode.value
    dst = output or default_target(src, request(scheme, lossless, base is not None).label)
    with render.progress("compressing", not (quiet or as_json)) as progress:
        report = compress(
            src, dst, scheme, mode=lossless, base=base, include=include or (), exclude=exclude or (),
            importance=importance, jobs=jobs, dry_run=dry_run, overwrite=force, progress=progress,
        )  # fmt: skip
    if as_json:
        render.emit_json(report.to_json())
    elif not quiet:
        views.compressed(report, every)


@app.command(epilog="Example: arraycodec decompress model.nf4.safetensors -o model.safetensors")
def decompress(
    src: Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DST",
            help="Default: SRC.decompressed.safetensors, for a folder SRC-decompressed, without the X of compress.",
        ),
    ] = None,
    base: Base = None,
    jobs: Jobs = None,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Decode a compressed checkpoint to plain safetensors files with the layout of the original ones.

    What was compressed losslessly becomes the original files byte for byte, which their sha256 proves.
    """
    from arraycodec.checkpoints.decompress import decompress
    from arraycodec.checkpoints.files import default_target
    from arraycodec.cli import render, views

    dst = output or default_target(src, "decompressed")
    with render.progress("decompressing", not (quiet or as_json)) as progress:
        report = decompress(src, dst, base=base, jobs=jobs, overwrite=force, progress=progress)
    if as_json:
        render.emit_json(report.to_json())
    elif not quiet:
        views.decompressed(report)


app.command(epilog="Example: arraycodec convert llama llama-w4a16 --to compressed-tensors --scheme W4A16")(convert)


@app.command(epilog="Example: arraycodec info model.nf4.safetensors --tensors")
def info(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of any format.")],
    floor: Annotated[
        bool,
        typer.Option(
            "--floor",
            help="Read all of it, and show entropies beside the bits that are stored, of what is plain or lossless.",
        ),
    ] = False,
    config: Config = None,
    base: Base = None,
    jobs: Jobs = None,
    every: Every = False,
    as_json: Json = False,
) -> None:
    """Show what a checkpoint holds, in whatever format. Only headers are read, but for --floor."""
    from arraycodec.checkpoints.info import info
    from arraycodec.cli import render, views

    with render.progress("counting", floor and not as_json) as progress:
        found = info(path, floor=floor, config=config, base=base, jobs=jobs, progress=progress)
    if as_json:
        render.emit_json(found.to_json())
    elif floor:
        views.floors(found, every)
    else:
        views.info(found, every)


@app.command(epilog="Example: arraycodec verify model.nf4.safetensors --against model.safetensors")
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of any format.")],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="SRC", help="The original: compare every tensor, of lossless files the whole file's sha256."
        ),
    ] = None,
    config: Config = None,
    base: Base = None,
    jobs: Jobs = None,
    every: Every = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read every byte and check it against its checksum. Exit code 1 where something is wrong.

    Formats without checksums: codes, scales and shapes are checked, and every weight is decoded.
    """
    import time

    from arraycodec.checkpoints.verify import verify
    from arraycodec.cli import render, views

    start = time.perf_counter()
    with render.progress("verifying", not (quiet or as_json)) as progress:
        found = verify(path, against=against, config=config, base=base, jobs=jobs, progress=progress)
    if as_json:
        render.emit_json(found.to_json())
    elif not quiet:
        views.verified(found, time.perf_counter() - start, every)
    if not found.ok:
        raise typer.Exit(DIFFERENT)


@app.command(epilog="Example: arraycodec diff model.safetensors model.nf4.safetensors")
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A file or folder of any format.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    config: Config = None,
    base: Base = None,
    jobs: Jobs = None,
    every: Every = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two checkpoints weight by weight, whatever formats they are in. Exit code 1 where they differ."""
    from arraycodec.checkpoints.diff import diff
    from arraycodec.cli import render, views

    with render.progress("comparing", not (quiet or as_json)) as progress:
        found = diff(a, b, config=config, base=base, jobs=jobs, progress=progress)
    if as_json:
        render.emit_json(found.to_json())
    elif not quiet:
        views.diff(found, every)
    if not found.equal:
        raise typer.Exit(DIFFERENT)


@app.command(name="list", epilog="Example: arraycodec list --json")
def list_(as_json: Json = False) -> None:
    """Show schemes, codecs, and which backends are installed."""
    from arraycodec.checkpoints.inventory import inventory
    from arraycodec.cli import render, views

    found = inventory()
    if as_json:
        render.emit_json(found)
    else:
        views.inventory(found)


app.command(epilog="Example: arraycodec bench --shape 4096x4096 --schemes nf4,fp4 --quick")(bench)


@app.command(epilog="Example: arraycodec demo -o /tmp/demo")
def demo(
    file: Annotated[
        Path | None, typer.Argument(help="A .safetensors file; a small trained model comes with the package.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep the files and the plot here.")
    ] = None,
    plot: Annotated[bool, typer.Option(help="Draw bits per weight against error; needs matplotlib.")] = True,
    as_json: Json = False,
) -> None:
    """Compress a checkpoint with every scheme, verify and decode it, and show size, error and speed of each."""
    from arraycodec.checkpoints.demo import demo
    from arraycodec.cli import render, views_bench

    with render.status("encoding", not as_json) as say:
        found = demo(file, output, plot=plot, say=say)
    if as_json:
        render.emit_json(found.to_json())
    else:
        views_bench.demo(found)
    if not found.ok:
        raise typer.Exit(DIFFERENT)
