"""The page that `bench --results` writes: tables in Markdown, and the machine they were measured on."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

from arraycodec.checkpoints.bench_case import Quality
from arraycodec.checkpoints.bench_peers import Peer
from arraycodec.checkpoints.bench_results import OUTLIER, OUTLIERS, Results, Section
from arraycodec.checkpoints.peers import LIBRARIES
from arraycodec.errors import UnsupportedByBackend

# What Quanta states for 4096 × 11008 normal numbers in blocks of 64: mean absolute error, bytes per element.
QUANTA = {
    "int8_linear": (0.0050, 1.0625),
    "dynamic": (0.0075, 1.0625),
    "nf4": (0.0728, 0.5625),
    "fp4": (0.0965, 0.5625),
}
# What is asked of ours beside a library in the same format: so many times as fast, or no slower than so many copies.
GOALS = {"compressed-tensors": 30, "torchao": 10, "optimum-quanto": 10, "gguf": 10}
COPIES = 1.3
PICTURES = {
    "quantise.png": "Time to quantise",
    "dequantise.png": "Time to dequantise",
    "mae.png": "Mean absolute error",
    "bytes.png": "Bytes per element",
}

PAGE = """# Benchmarks

<!-- Written by `{command}`. -->

`{command}`, {date}.

A matrix of {rows} × {columns} normal random numbers (mean 0, standard deviation 1), {elements:.1f} M elements, with
{threads}, in one process. Times are medians of calls that are taken in turns with what they are compared to. A *copy*
is `numpy.copyto` of the same array into warm memory by one thread: {copy} ms in float32. *Quantise* allocates the
planes and does not look for NaN (`check=False`), *dequantise* writes into warm memory (`out=`); the other libraries
allocate in both. *Working memory* is the peak of resident memory while quantising beside what is returned. Every scheme
has the blocks that it is made with, 64 elements where the format leaves them free; a codec with two names is measured
once.

{machine}.

{missing}

{pictures}
## Quanta's column

What Quanta states for 4096 × 11008 normal numbers in blocks of 64, and what these schemes give here.

{quanta}
## In blocks

{blocks}
## Beside the peers

Ours has been measured in turns with the peer, on the same float32 array. *Times* is the peer's time in ours; of the two
ways in which ours dequantises, allocating is what the peer does, and `out=` is what the peer does not offer. *Not ours*
is the share of decoded elements that differ from ours in any bit, as measured: where it is 0 the formats are the same;
where it is not, the last column says what the peer does differently. *Goal* counts the formats in which ours (with
`out=`) is at least {goals}, or takes at most {copies} copies.

{summary}
{peers}
## One scale for the whole matrix

The schemes that can have it; peers were not measured.

{whole}
## Outliers

The same matrix with {share:g} % of its elements multiplied by {factor}. What is lost depends on the array, how long it
takes does not, so there are no times.

{outliers}
## bfloat16

The same matrix in bfloat16: every scheme of ours, and compressed-tensors, which is made for such weights and computes
in the array's dtype.

{bfloat16}
{bfloat16_peers}
"""


def writable(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if it is not there; what keeps `write` from its work is raised before minutes of measuring."""
    try:
        importlib.import_module("arraycodec.checkpoints.bench_plot")
    except ModuleNotFoundError as error:
        told = f'{error.name} is not installed (pip install "arraycodec[plot]")'
        raise UnsupportedByBackend(f"bench: no pictures: {told}") from None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def write(found: Results, folder: Path) -> list[Path]:
    """Write `results.md` and its pictures, and return their paths."""
    from arraycodec.checkpoints.bench_plot import draw

    path = folder / "results.md"
    path.write_text(page(found), encoding="utf-8")
    return [path, *draw(found, folder)]


def page(found: Results) -> str:
    """The whole page."""
    rows, columns = found.shape
    copies = sorted(case.copy for case in found.blocks.cases)
    pictures = "".join(f"![{title}]({name})\n\n" for name, title in PICTURES.items())
    return PAGE.format(
        command=found.command, date=found.date,
        rows=rows, columns=columns, elements=rows * columns / 1e6, copy=_ms(copies[len(copies) // 2]),
        threads=f"{found.threads} thread{'s' * (found.threads > 1)}",
        machine=_machine(found.machine), missing=_missing(found.notes), pictures=pictures,
        quanta=_quanta(found.blocks.quality), blocks=_section(found, found.blocks), whole=_section(found, found.whole),
        summary=_summary(found.blocks.peers), peers=_peers(found.blocks.peers),
        goals=" and ".join(f"{times} times as fast as {name}" for times, name in _goals()), copies=COPIES,
        outliers=_outliers(found), share=100 * OUTLIERS, factor=OUTLIER,
        bfloat16=_section(found, found.bfloat16), bfloat16_peers=_peers(found.bfloat16.peers),
    ).rstrip("\n") + "\n"  # fmt: skip


def _goals() -> list[tuple[int, str]]:
    """How fast, and as what."""
    libraries: dict[int, list[str]] = {}
    for library, times in GOALS.items():
        libraries.setdefault(times, []).append(library)
    return [(times, ", ".join(names)) for times, names in libraries.items()]


def _section(found: Results, section: Section) -> str:
    """Quanta's table with our columns: every scheme, and below it the peers' formats of that kind."""
    rows = [["scheme", "implementation", "quantise [ms]", "[copies]", "dequantise [ms]", "[copies]", "MAE", "max error",
             "SNR [dB]", "bytes/element", "working memory [MiB]"]]  # fmt: skip
    for case, loss in zip(section.cases, section.quality, strict=True):
        names = [f"**`{case.scheme}`**", *(f"`{name}`" for name, of in found.aliases.items() if of == case.scheme)]
        rows.append([", ".join(names), "arraycodec", *_times(case.encode, case.copy), *_times(case.decode, case.copy),
                     *_loss(loss), _mib(loss)])  # fmt: skip
        for peer in (peer for peer in section.peers if peer.scheme.partition(",")[0] == case.scheme):
            rows.append(["", f"{peer.name} {peer.format}", *_times(peer.encode, case.copy),
                         *_times(peer.decode, case.copy), *_loss(peer.quality), _mib(peer.quality)])  # fmt: skip
    return _table(rows, left=2)


def _times(seconds: float, copy: float) -> tuple[str, str]:
    """Milliseconds, and copies."""
    return _ms(seconds), f"{seconds / copy:,.2f}" if seconds < 10 * copy else f"{seconds / copy:,.0f}"


def _peers(peers: Iterable[Peer]) -> str:
    rows = [["library", "its format", "our codec", "quantise [ms]", "ours", "times", "dequantise [ms]", "ours", "times",
             "ours, `out=`", "times", "not ours", "what differs"]]  # fmt: skip
    for peer in peers:
        rows.append([peer.name, peer.format, f"`{peer.scheme}`", _ms(peer.encode), _ms(peer.our_encode),
                     _factor(peer.times_encode), _ms(peer.decode), _ms(peer.our_decode), _factor(peer.times_decode),
                     _ms(peer.our_decode_out), _factor(peer.times_decode_out), percent(peer.differing),
                     "" if peer.likeness == "same" else peer.likeness])  # fmt: skip
    return _table(rows, left=3) if len(rows) > 1 else "No peer was measured.\n"


def _summary(peers: Iterable[Peer]) -> str:
    """The range of the times of each library, and in how many of its formats ours reaches the goal."""
    rows = [["library", "formats", "the same bits", "quantise, times ours", "goal", "dequantise, times ours (`out=`)",
             "goal"]]  # fmt: skip
    libraries: dict[str, list[Peer]] = {}
    for peer in peers:
        libraries.setdefault(peer.name, []).append(peer)
    for name, own in libraries.items():
        cells = []
        for times in ([(p.times_encode, p.our_encode / p.copy) for p in own],
                      [(p.times_decode_out, p.our_decode_out / p.copy) for p in own]):  # fmt: skip
            reached = sum(faster >= GOALS.get(name, 0) or copies <= COPIES for faster, copies in times)
            factors = [faster for faster, _ in times]
            cells += [" to ".join(_factor(end) for end in sorted({min(factors), max(factors)}))]
            cells += [f"{reached} of {len(own)}" if name in GOALS else ""]
        rows.append([name, str(len(own)), str(sum(not peer.differing for peer in own)), *cells])
    return _table(rows) if len(rows) > 1 else ""


def _quanta(quality: Iterable[Quality]) -> str:
    rows = [["scheme", "MAE, stated", "MAE", "bytes/element, stated", "bytes/element"]]
    for loss in quality:
        if loss.scheme in QUANTA:
            mae, nbytes = QUANTA[loss.scheme]
            rows.append([f"`{loss.scheme}`", f"{mae:.4f}", f"{loss.mae:.4f}", f"{nbytes:.4f}",
                         f"{loss.bytes_per_element:.4f}"])  # fmt: skip
    return _table(rows)


def _outliers(found: Results) -> str:
    whole = {loss.scheme: loss for loss in found.whole_outliers.quality}
    rows = [["scheme", "MAE, blocks", "max error", "SNR [dB]", "MAE, whole matrix", "max error", "SNR [dB]"]]
    for loss in found.outliers.quality:
        other = whole.get(loss.scheme)
        rows.append([f"`{loss.scheme}`", *_loss(loss)[:3], *(_loss(other)[:3] if other else ("", "", ""))])
    return _table(rows)


def _loss(loss: Quality) -> tuple[str, str, str, str]:
    """Mean absolute error, the largest, SNR, bytes per element."""
    snr = f"{loss.snr_db:.2f}" if math.isfinite(loss.snr_db) else "exact"
    mae = f"{loss.mae:.4f}" if loss.mae >= 0.001 else f"{loss.mae:.2g}"
    return mae, f"{loss.max_abs:.3g}", snr, f"{loss.bytes_per_element:.4f}"


def _mib(loss: Quality) -> str:
    return "" if loss.working_bytes is None else f"{loss.working_bytes / (1 << 20):.0f}"


def percent(share: float) -> str:
    """A share for people.

    >>> percent(0.0), percent(0.00012345), percent(0.9974)
    ('0', '0.012 %', '99.7 %')
    """
    return f"{100 * share:.3g} %" if share > 0.01 else f"{100 * share:.2g} %" if share else "0"


def _ms(seconds: float) -> str:
    return f"{(ms := 1e3 * seconds):,.{2 if ms < 10 else 1 if ms < 100 else 0}f}"


def _factor(times: float) -> str:
    return f"{times:,.{1 if times < 10 else 0}f}"


def _machine(machine: dict[str, str | int]) -> str:
    general = ("cpu", "cores", "cores_available", "system")
    versions = ", ".join(f"{name} {version}" for name, version in machine.items() if name not in general)
    return (
        f"{machine['cpu']}, {machine['cores_available']} of {machine['cores']} cores, {machine['system']}; {versions}"
    )


def _missing(notes: Iterable[str]) -> str:
    """What was not measured, by name."""
    told = "; ".join(notes)
    return f"Not measured: {told}." if told else f"All of {', '.join(LIBRARIES)} were installed and measured."


def _table(rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table; the first row is its head, columns from `left` on are numbers, set flush right."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    marks = "|" + "".join("---|" if i < left else "---:|" for i in range(len(rows[0])))
    return "\n".join([lines[0], marks, *lines[1:]]) + "\n"
