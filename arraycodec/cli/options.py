"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Threads; as many as there are CPUs if not given.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite files that exist.")]
Every = Annotated[bool, typer.Option("--tensors", "-t", help="One row per tensor, not one per group of like names.")]
Base = Annotated[
    Path | None, typer.Option("--base", "-b", metavar="BASE", help="The checkpoint that differences are to.")
]
Source = Annotated[Path, typer.Argument(metavar="SRC", help="A .safetensors file, or a folder of shards.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The quantization_config (JSON) of weights whose folder has none."),
]
