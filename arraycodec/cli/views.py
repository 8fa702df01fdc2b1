"""What compress, decompress, info, verify, diff and list print."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from arraycodec.checkpoints.diff import Diff
from arraycodec.checkpoints.floor import CONTEXTS, Floor
from arraycodec.checkpoints.info import Info
from arraycodec.checkpoints.policy import FLOATS
from arraycodec.checkpoints.report import Report, Row, short_label, total
from arraycodec.checkpoints.verify import Check, Verification
from arraycodec.checkpoints.weights import NATIVE, PLAIN
from arraycodec.cli.render import cell, console, decibels, dimensions, grouped, size, table, times
from arraycodec.codecs.tied import Tied
from arraycodec.containers.checks import shown

STYLES = {"same": "dim", "changed": "yellow", "incompatible": "red", "removed": "red", "added": "green"}


def compressed(report: Report, every: bool = False) -> None:
    """Every decision with its reason, then what it came to."""
    out = console()
    rows = table("~tensor", "", "?dtype", "?shape", "codec", ">before", ">after", "|reason")
    like = grouped(report.rows, labelled, lambda r: (r.dtype, r.shape, r.codec, r.reason), every)
    for name, group in like:
        row, style = group[0], "" if group[0].codec else "dim"
        rows.add_row(
            cell(name, style), cell(times(len(group)), style), cell(row.dtype, style),
            cell(dimensions(row.shape), style), _codec(row),
            cell(size(sum(r.before for r in group)), style), cell(size(total([r.after for r in group])), style),
            cell(row.reason, "yellow" if "NaN" in row.reason else style),
        )  # fmt: skip
    rows.show(out)
    _summary(report)
    if report.dry_run:
        out.print(cell("dry run: nothing was written", "bold yellow"))
    else:
        told = f"check it:  arraycodec verify {report.dst} --against {report.src}"
        out.print(cell(told + (f" --base {report.base}" if report.reads_base else ""), "dim"), soft_wrap=True)


def labelled(row: Any) -> str:
    """The name of a row's tensor, after the subfolder its file is in."""
    folder = row.file.rpartition("/")[0]
    return f"{folder}/{row.name}" if folder else row.name


def _codec(row: Row | Check) -> Any:
    return cell(short_label(row.codec), "green" if row.codec else "dim")


def _summary(report: Report) -> None:
    out = console()
    out.print(cell(f"{report.src} → {report.dst}", "bold"), soft_wrap=True)
    smaller = f"   {report.ratio:.2f}× smaller" if report.ratio else ""
    out.print(cell(f"{size(report.before)} → {size(report.after)}{smaller}", "bold green"), end="")
    bits = f"  {8 * report.after / report.elements:.2f} bits per weight," if report.after and report.elements else " "
    files = f", {len(report.files)} files" if len(report.files) > 1 else ""
    kinds = report.kinds
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    without = " losslessly" if all(row.codec.lossless for row in report.encoded if row.codec) else ""
    how = f" with {next(iter(kinds))}" if len(kinds) == 1 else f"{without}: {told}" if kinds else ""
    out.print(cell(f"{bits} {len(report.encoded)} of {len(report.rows)} tensors encoded{how}{files}"), soft_wrap=True)
    if report.base and not report.reads_base:
        told = f"note: no tensor is stored as a difference to {report.base}: it is not needed to decompress"
        out.print(cell(told, "yellow"), soft_wrap=True)


def decompressed(report: Report) -> None:
    """One line: from where to where, and what it came to."""
    lossy = sum(not row.codec.lossless for row in report.encoded if row.codec)
    told = f"{lossy} of them lossy" if lossy else "none of them lossy"
    out = console()
    out.print(cell(f"{report.src} → {report.dst}", "bold"), soft_wrap=True)
    out.print(cell(f"{size(report.before)} → {size(report.after)}", "bold green"), end="")
    out.print(cell(f"  {len(report.rows)} tensors, {len(report.encoded)} decoded, {told}"), soft_wrap=True)


def info(found: Info, every: bool = False) -> None:
    """Tensors in groups, then one line for the whole."""
    out = console()
    rows = table("~tensor", "", "?dtype", "?shape", "codec", ">decoded", ">stored", ">bits/weight")
    for name, group in grouped(found.rows, labelled, lambda r: (r.dtype, r.shape, r.codec), every):
        row, elements = group[0], sum(math.prod(r.shape) for r in group)
        stored = sum(r.after or 0 for r in group)
        style = "" if row.codec else "dim"
        rows.add_row(
            cell(name, style), cell(times(len(group)), style), cell(row.dtype, style),
            cell(dimensions(row.shape), style), _codec(row),
            cell(size(sum(r.before for r in group)), style), cell(size(stored), style),
            cell(f"{8 * stored / elements:.2f}" if elements else "", style),
        )  # fmt: skip
    rows.show(out)
    kind = "arraycodec container, checksummed (xxh3-64)" if found.native else "plain safetensors, no checksums"
    if foreign := [name for name in found.formats if name not in (PLAIN, NATIVE)]:
        kind = f"{', '.join(foreign)}, " + ("in a checksummed arraycodec container" if found.native else "no checksums")
    out.print(cell(found.path, "bold"), cell(f"  {kind}"), soft_wrap=True)
    smaller = (found.native or foreign) and found.stored
    ratio = f" ({found.decoded / found.stored:.2f}× smaller than decoded)" if smaller else ""
    schemes = ", ".join(f"{n} {name}" for name, n in Counter(short_label(row.codec) for row in found.rows).items())
    files = f" in {len(found.files)} files" if len(found.files) > 1 else ""
    tensors = f"{len(found.rows)} tensors{files} ({schemes}), {found.elements / 1e6:.2f} M weights"
    told = f"{tensors}, {size(found.stored)}{ratio}, {found.bits_per_element:.2f} bits per weight"
    out.print(cell(told), soft_wrap=True)
    for base in dict.fromkeys(file.base for file in found.files if file.base):
        out.print(cell(f"differences to {base}: --base names it where they are decoded", "yellow"), soft_wrap=True)
    _notes(found.notes)


def _notes(notes: Iterable[str]) -> None:
    for note in notes:
        console().print(cell(f"note: stored tensors, not weights: {note}", "yellow"), soft_wrap=True)


def floors(found: Info, every: bool = False) -> None:
    """Entropies beside the bits that are stored, for groups of tensors, then for all of them."""
    out = console()
    rows = table("~tensor", "", "?dtype", "?shape", *(f">{name}" for name in CONTEXTS), "?>lowest", ">stored", ">gap",
                 title="Bits per weight")  # fmt: skip
    all_of_them = found.floors or ()
    groups = grouped(all_of_them, labelled, lambda r: (r.dtype, r.shape), every)
    for name, group in groups:
        rows.add_row(cell(name), cell(times(len(group))), cell(group[0].dtype), cell(dimensions(group[0].shape)),
                     *_figures(group))  # fmt: skip
    if all_of_them:
        rows.show(out)
        elements = sum(row.elements for row in all_of_them)
        mean = {name: sum(getattr(row, name) * row.elements for row in all_of_them) / elements for name in MEANS}
        decoded = 8 * sum(row.decoded for row in all_of_them) / elements
        told = ", ".join(f"{name} {value:.3f} ({value / decoded:.4f})" for name, value in mean.items())
        out.print(cell(found.path, "bold"), cell(f"  bits per weight (of the decoded bytes): {told}"), soft_wrap=True)
    native = {file.name for file in found.files if file.format == NATIVE}
    if lossy := sum(bool(row.codec) and not row.codec.lossless for row in found.rows if row.file in native):
        told = f"note: without {lossy} lossy tensors: entropies of what they decode to say nothing about their codes"
        out.print(cell(told, "yellow"), soft_wrap=True)


PROBLEMS = 10  # that `verify` prints unless asked for every tensor
MEANS = (*CONTEXTS, "lowest", "stored", "gap")


def _figures(group: list[Floor]) -> list[Any]:
    elements = sum(row.elements for row in group)
    return [
        cell(
            f"{sum(getattr(row, name) * row.elements for row in group) / elements:.3f}", "bold" if name == "gap" else ""
        )
        for name in MEANS
    ]


def verified(found: Verification, seconds: float, every: bool = False) -> None:
    """What is wrong, with `--against` how far from the original, and one line for the whole."""
    out = console()
    if found.against is not None:
        compared = [row for row in found.rows if row.difference and not row.difference.identical]
        rows = table("~tensor", "", "codec", ">SNR (lowest)", ">max abs error", ">relative RMS")
        for name, group in grouped(compared, labelled, lambda r: r.codec, every):
            errors = [row.difference for row in group if row.difference]
            rows.add_row(cell(name), cell(times(len(group))), _codec(group[0]),
                         cell(decibels(min(e.snr_db for e in errors))), cell(f"{max(e.max_abs for e in errors):.3g}"),
                         cell(f"{max(e.relative_rms for e in errors):.3g}"))  # fmt: skip
        if compared:
            rows.show(out)
        exact = sum(row.difference is not None and row.difference.identical for row in found.rows)
        out.print(cell(f"{exact} of {len(found.rows)} tensors equal the original bit for bit"))
        for file in found.rebuilt:
            out.print(cell(f"{file} decompresses to the original file: its sha256 is the same"), soft_wrap=True)
    told = [_told(row) for row in found.rows if row.problem]
    own = [problem for problem in found.problems if not any(problem in line for line in told)]
    problems = [*own, *told]  # what kept a whole file from being made again is in both
    count = len(problems) if every else PROBLEMS
    for problem in problems[:count]:
        out.print(cell("bad  ", "bold red"), cell(problem), sep="", soft_wrap=True)
    if left := problems[count:]:
        out.print(cell(f"bad  {len(left)} more; --tensors and --json list all", "bold red"), soft_wrap=True)
    if found.uncompared:
        more = f" and {len(found.uncompared) - 3} more" if len(found.uncompared) > 3 else ""
        names = ", ".join(map(shown, found.uncompared[:3])) + more
        told = "differences to a base, or tied to one; without --base only their stored bytes were checked"
        out.print(cell(f"note: {told}: {names}", "yellow"), soft_wrap=True)
    for file in found.unchecked:
        checked = (
            "codes, scales and shapes were"
            if any(row.codec for row in found.rows if row.file == file)
            else ("only its structure could be")
        )
        out.print(cell(f"note: {file} has no checksums, {checked} checked", "yellow"), soft_wrap=True)
    _notes(found.notes)
    speed = f", {found.nbytes / seconds / 1e9:.2f} GB/s" if found.against is None and found.nbytes else ""
    whole = f"{len(found.rows)} tensors, {size(found.nbytes)} under checksums that hold, {seconds:.2f} s{speed}"
    out.print(cell("ok   " if found.ok else "FAILED  ", "bold green" if found.ok else "bold red"), cell(whole), sep="")


def _told(row: Check) -> str:
    """The problem of a tensor, which it names once."""
    problem = row.problem or ""
    return problem if shown(row.name) in problem else f"tensor {shown(labelled(row))}: {problem}"


def diff(found: Diff, every: bool = False) -> None:
    """A row for each group of tensors that differ, then counts."""
    out = console()
    rows = table("~tensor", "", "status", "?A", "?B", ">SNR (lowest)", ">max abs", ">relative RMS")
    differing = [row for row in found.rows if row.status != "same"]
    like = grouped(differing, lambda r: r.name, lambda r: (r.status, r.a, r.b), every)
    for name, group in like:
        row, errors = group[0], [r.difference for r in group if r.difference]
        figures: Iterable[Any] = ("", "", "")
        if errors:
            figures = (decibels(min(e.snr_db for e in errors)), f"{max(e.max_abs for e in errors):.3g}",
                       f"{max(e.relative_rms for e in errors):.3g}")  # fmt: skip
        rows.add_row(cell(name), cell(times(len(group))), cell(row.status, STYLES[row.status]), cell(_side(row.a)),
                     cell(_side(row.b)), *map(cell, figures))  # fmt: skip
    if differing:
        rows.show(out)
    _notes(found.notes)
    counts = ", ".join(f"{count} {status}" for status, count in found.counts.items() if count)
    told = "equal" if found.equal else "different"
    out.print(cell(f"{told}: ", "bold green" if found.equal else "bold yellow"), cell(counts or "no tensors"), sep="")


def _side(side: Any) -> str:
    if side is None:
        return ""
    return f"{side.dtype} {dimensions(side.shape)}" + (f" {short_label(side.codec)}" if side.codec else "")


def inventory(found: dict[str, Any]) -> None:
    """Four tables: schemes, codecs, the schemes of formats that `convert` writes, backends."""
    out = console()
    rows = table("scheme", ">bits/weight", "dtypes", "|codec", title="Schemes")
    for scheme in found["schemes"]:
        bits = "data-dependent" if scheme["bits_per_element"] is None else f"{scheme['bits_per_element']:.3f}"
        rows.add_row(cell(scheme["name"], "green"), cell(bits), cell(_kinds(scheme["dtypes"])), cell(scheme["repr"]))
    rows.show(out)
    told = f"floats: {', '.join(FLOATS)}; any: all of whole bytes; real: any but complex64; --json lists them"
    out.print(cell(told, "dim"), soft_wrap=True)
    out.print(
        cell("A lossy scheme X with its codes and scales coded losslessly: X+lossless, X+lossless-storage", "dim")
    )
    rows = table("codec", "", "|about", title="Codecs")
    for codec in found["codecs"]:
        kind = next((kind for kind in ("lossless", "experimental") if codec[kind]), "")
        rows.add_row(cell(codec["name"], "green"), cell(kind), cell(codec["about"]))
    rows.show(out)
    rows = table("convert --to", "|schemes", title="Formats")
    for form in found["formats"]:
        rows.add_row(cell(form["name"], "green"), cell(", ".join(form["schemes"])))
    rows.show(out)
    rows = table("backend", "installed", title="Backends")
    for backend in found["backends"]:
        versions = ", ".join(f"{name} {version}" for name, version in backend["versions"].items() if version)
        missing = f'no: pip install "arraycodec[{backend["name"]}]"'
        style = "green" if backend["installed"] else "dim"
        rows.add_row(cell(backend["name"], style), cell(versions if backend["installed"] else missing))
    rows.show(out)


def _kinds(dtypes: list[str]) -> str:
    """Dtypes in a word where they are the usual ones."""
    any_ = frozenset(Tied.dtypes)
    kinds = {frozenset(FLOATS): "floats", any_: "any", any_ - {"complex64"}: "real"}
    return kinds.get(frozenset(dtypes), ", ".join(dtypes))
