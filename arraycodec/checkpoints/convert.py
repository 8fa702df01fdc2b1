"""`convert`: a checkpoint of any format as one of another, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from arraycodec.base import Codec
from arraycodec.checkpoints.conversion import Conversion
from arraycodec.checkpoints.convert_files import Files, config_bytes, files_of, index_bytes, model_of, write
from arraycodec.checkpoints.convert_plan import Part, plan_folder
from arraycodec.checkpoints.convert_target import FOREIGN, Wanted, as_target_sees
from arraycodec.checkpoints.convert_tensor import Item
from arraycodec.checkpoints.convert_write import Shard, head_bytes, write_shard
from arraycodec.checkpoints.files import copy, refuse_existing, undone_on_failure
from arraycodec.checkpoints.pipeline import Done, Progress, using
from arraycodec.checkpoints.report import total
from arraycodec.checkpoints.tree import Tree, scan
from arraycodec.checkpoints.weights import Given, Path_, opened_weights
from arraycodec.errors import ArgumentError
from arraycodec.formats.bitsandbytes.target import Bitsandbytes
from arraycodec.formats.config import CONFIG
from arraycodec.formats.layers import Scheme
from arraycodec.formats.modules import conv1d


def convert(
    src: Path_,
    dst: Path_,
    to: str,
    *,
    scheme: str | Codec | None = None,
    layers: Mapping[str, Scheme] | None = None,
    ignore: Iterable[str] | None = None,
    config: Given = None,
    dtype: str | None = None,
    source_config: Given = None,
    base: Path_ | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a checkpoint, of whatever format `open_checkpoint` knows, to another format.

    A weight that the target can hold in the codec that the source has it in keeps its codes and scales, to the bit; all
    others are decoded, and encoded where they have a scheme. The result says which. Shards, their names, the index and
    all other files stay as they are; config.json says how the result is quantised. The input is never touched, and a
    failure leaves nothing behind. Memory is that of the largest tensor and its encoding; no byte depends on `jobs`.

    src, dst       a folder, or a file (safetensors, GGUF), and the folder to write to. From one file to "dense" or
                   "arraycodec" it may be a safetensors file too.
    to             "dense", "arraycodec", "bitsandbytes" or "compressed-tensors".
    scheme         of all Linear weights: a scheme's name, a preset of the target ("W4A16"), or a codec. With neither
                   it nor `layers` nor `config`, weights stay in the codecs they have. Where none has any, it is nf4,
                   for compressed-tensors W4A16; where the target has none of them, ArgumentError.
    layers         target -> scheme, or None for what is to be plain; a target is the name of a module, "re:" and an
                   expression, or a class. Names come before expressions, these before classes.
    ignore         targets that no scheme is for; ("lm_head",) by default. Others must be there, as those of `layers`.
    config         a quantization_config for the result, or its file, taken as it is.
    dtype          "dense" only: round every float tensor to it; None is each weight's own.
    source_config  the quantization_config of the source, or its file, where its folder does not hold it.
    base           the checkpoint that deltas of the source are to.
    jobs           threads; None is as many as `get_num_threads()` says.
    dry_run        decide and predict sizes from the headers alone; nothing is written.
    overwrite      replace files that are there.
    progress       called with (bytes done, bytes in all, tensor at hand).

    >>> layers = {"Linear": "W4A16", "re:.*down_proj": "W8A8"}
    >>> convert("llama", "llama-w4", "compressed-tensors", layers=layers).counts  # doctest: +SKIP
    {'copied': 66, 'encoded': 224}
    """
    wanted = Wanted.of(to, scheme, layers, ignore, config, dtype)
    tree = scan(src)
    files = files_of(tree, Path(dst), to if to in FOREIGN else None)
    with opened_weights(tree, config=source_config, base=base) as folders, using(jobs) as threads:
        parts = []
        for folder in folders:
            model = model_of(tree.root / folder.name / CONFIG)
            folder = as_target_sees(folder, to)
            parts.append(plan_folder(folder, wanted.target(folder, model), model, dtype, dry_run))
        items = [item for part in parts for item in part.items]
        wanted.check({item.name: item.tensor.spec for item in items})
        if to != "dense" and not any(item.codec for item in items):
            reasons = list(dict.fromkeys(item.decision.reason for item in items)) or ["it holds no tensors"]
            raise ArgumentError(f"{tree.where}: nothing to encode: {'; '.join([*reasons, *wanted.unmatched(items)])}")
        shards = [shard for part in parts for shard in _shards(part, files)]
        sizes = _run(tree, files, parts, shards, dry_run, threads, overwrite, progress)
    rows = tuple(row for shard in shards for row in shard.rows)
    notes = [*_notes(files, parts, dry_run), *wanted.unmatched(item for part in parts for item in part.items)]
    sources = ", ".join(dict.fromkeys(folder.format for folder in folders))
    return Conversion(str(tree.where), str(dst), sources, to, dry_run, rows, tuple(sizes), tuple(notes))


def _shards(part: Part, files: Files) -> list[Shard]:
    """The files of a folder's result, with the tensors that go into each."""
    found = []
    for file, container in part.folder.files.items():
        items = [item for item in part.items if item.file == file]
        found.append(Shard(file, files.weights[file], container, part.target, items))
    return found


def _run(
    tree: Tree, files: Files, parts: list[Part], shards: list[Shard], dry_run: bool, jobs: int, overwrite: bool,
    progress: Progress | None,
) -> list[tuple[str, int, int | None]]:  # fmt: skip
    """Write everything; the name and size of every file of weights, before and after."""
    before = {shard.file: shard.container.file_bytes for shard in shards}
    if dry_run:
        for shard in shards:
            shard.rows = [item.row(item.after, tuple(item.layout or (item.name,))) for item in shard.items]
        return [(shard.name, before[shard.file], _predicted(shard)) for shard in shards]
    configs = {} if files.alone else _configs(tree, files, parts)
    names = [*(shard.name for shard in shards), *configs, *files.copied, *tree.indexes]
    if not overwrite:
        refuse_existing(map(files.path, names))
    done, sizes = Done(sum(item.tensor.spec.nbytes for shard in shards for item in shard.kept), progress), []
    folders = _missing_folders(files, names)
    try:
        with undone_on_failure(overwrite) as written:
            for shard in shards:
                path = files.path(shard.name)
                if write_shard(shard, path, jobs, overwrite, done):
                    written.append(path)
                sizes.append((shard.name, before[shard.file], path.stat().st_size if path in written else 0))
            for name, source in files.copied.items():
                copy(source, files.path(name), overwrite)
                written.append(files.path(name))
            for name, data in configs.items():
                write(files.path(name), data, overwrite)
                written.append(files.path(name))
            for name in tree.indexes:
                folder = PurePosixPath(name).parent
                own = {str(PurePosixPath(shard.name).relative_to(folder)): shard.sizes
                       for shard in shards if PurePosixPath(shard.name).is_relative_to(folder)}  # fmt: skip
                write(files.path(name), index_bytes(tree.path(name), own), overwrite)
                written.append(files.path(name))
    except BaseException:
        for folder in reversed(folders):
            with suppress(OSError):  # not empty: what is in it is not ours
                folder.rmdir()
        raise
    return sizes


def _predicted(shard: Shard) -> int | None:
    data = total([item.after for item in shard.items])
    return None if data is None else data + head_bytes(shard)


def _configs(tree: Tree, files: Files, parts: list[Part]) -> dict[str, bytes]:
    """name -> content of every config.json that is written."""
    found = {}
    for part in parts:
        name = str(PurePosixPath(part.folder.name, CONFIG))
        if (data := config_bytes(tree.path(name), part.config or {}, part.target.name)) is not None:
            found[name] = data
    return found


def _missing_folders(files: Files, names: Iterable[str]) -> list[Path]:
    """The folders that are going to be made, outer ones first."""
    found: set[Path] = set()
    for name in names:
        folder = files.path(name).parent
        while not folder.exists() and folder not in found:
            found.add(folder)
            folder = folder.parent
    return sorted(found)


def _notes(files: Files, parts: list[Part], dry_run: bool) -> list[str]:
    notes = []
    if files.left:
        notes.append(f"weights of other formats are not copied: {', '.join(files.left)}")
    items = [item for part in parts for item in part.items]
    if dry_run and (unknown := [item.name for item in items if item.after is None]):
        told = f"the size of {len(unknown)} weights depends on data, which a dry run does not read"
        notes.append(f"{told} (nested statistics, lossless codes): {_first(unknown)}")
    if any(part.target.name in FOREIGN and part.folder.format == "gguf" for part in parts):
        told = "names of tensors are those of llama.cpp, and config.json says nothing of the model"
        notes.append(f"{told}: transformers and vLLM do not load it as it is")
    if turned := [item.name for part in parts for item in part.items if _turned(part, item)]:
        told = f"bitsandbytes has {len(turned)} weights of Conv1D as (out, in), and the model (in, out)"
        notes.append(f"{told}: transpose them before it is loaded: {_first(turned)}")
    if dropped := [item.name for item in items if item.how == "dropped"]:
        told = f"the result says nothing of {len(dropped)} scales of activations and caches, which are"
        notes.append(f"{told} dropped: {_first(dropped)}")
    return notes


def _turned(part: Part, item: Item) -> bool:
    """Whether it is a Conv1D that bitsandbytes stored as a Linear, and is decoded as such."""
    if part.folder.format != Bitsandbytes.name or item.source is None or item.how not in ("decoded", "cast"):
        return False
    return bool(conv1d({item.name: item.tensor.spec}, part.model))


def _first(names: list[str]) -> str:
    return names[0] + (", ..." if len(names) > 1 else "")
