"""The command `convert`: its arguments and help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from arraycodec.cli.options import Base, Every, Force, Jobs, Json, Quiet

PLAIN = "plain"  # the scheme of what is to be plain


class To(StrEnum):
    """The formats that are written; the names are those of `checkpoints.convert_target.SCHEMES`."""

    dense = "dense"
    arraycodec = "arraycodec"
    bitsandbytes = "bitsandbytes"
    compressed_tensors = "compressed-tensors"


def convert(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="A folder, .safetensors or .gguf file of any format.")],
    dst: Annotated[
        Path,
        typer.Argument(
            metavar="DST", help="A folder; of one file to dense or arraycodec it may be a .safetensors file."
        ),
    ],
    to: Annotated[
        To, typer.Option("--to", metavar="|".join(To), help="The format to write; dense: every weight decoded.")
    ],
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            "--scheme",
            "-s",
            metavar="[TARGET=]SCHEME",
            help="Of all Linear weights, or of those that TARGET names: a module, re:EXPRESSION, or a class. A scheme, "
            "a preset (W4A16), or plain. Without one weights stay in the codecs they have; if all are plain they are "
            "quantised as nf4, for compressed-tensors W4A16.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore", metavar="TARGET", help="Leave these as they are; lm_head if none is given. Each must be there."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A quantization_config (JSON) for the result, taken as it is."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="With --to dense: round to bfloat16, float16 or float32.")
    ] = None,
    source_config: Annotated[
        Path | None,
        typer.Option("--source-config", metavar="FILE", help="The quantization_config of SRC, if its folder has none."),
    ] = None,
    base: Base = None,
    jobs: Jobs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show decisions and sizes; write nothing.")] = False,
    every: Every = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint to another format. The input is never changed.

    Reads bitsandbytes, compressed-tensors, GPTQ, AWQ, ModelOpt, block fp8, GGUF, our containers and plain safetensors.
    What DST can hold as SRC has it keeps its codes and scales; all else is decoded, and encoded by its scheme.
    """
    from arraycodec.checkpoints.convert import convert
    from arraycodec.cli import render, views_convert

    with render.progress("converting", not (quiet or as_json)) as progress:
        found = convert(
            src, dst, to.value, layers=layers(scheme or []), ignore=ignore, config=config, dtype=dtype,
            source_config=source_config, base=base, jobs=jobs, dry_run=dry_run, overwrite=force, progress=progress,
        )  # fmt: skip
    if as_json:
        render.emit_json(found.to_json())
    elif not quiet:
        views_convert.converted(found, every)


def layers(schemes: list[str]) -> dict[str, str | None]:
    """target -> scheme from `[TARGET=]SCHEME` each.

    >>> layers(["w4a16", "re:.*down_proj=w8a8", "lm_head=plain"])
    {'Linear': 'w4a16', 're:.*down_proj': 'w8a8', 'lm_head': None}
    """
    found: dict[str, str | None] = {}
    for text in schemes:
        target, mark, scheme = text.rpartition("=")
        target = target if mark else "Linear"
        if not target or not scheme or target in found:
            told = f"{target} is given twice" if target in found else f"must be [TARGET=]SCHEME, got {text!r}"
            raise typer.BadParameter(told, param_hint="--scheme")
        found[target] = None if scheme == PLAIN else scheme
    return found
