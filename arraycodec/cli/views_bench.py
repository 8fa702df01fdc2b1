"""What bench and demo print."""

from __future__ import annotations

from pathlib import Path

from arraycodec.checkpoints.bench import Bench
from arraycodec.checkpoints.bench_formats import FormatBench
from arraycodec.checkpoints.bench_lossless import LosslessBench
from arraycodec.checkpoints.bench_page import percent
from arraycodec.checkpoints.bench_results import Results
from arraycodec.checkpoints.demo import Demo
from arraycodec.checkpoints.rates import Rates, frontier
from arraycodec.cli.render import cell, console, decibels, size, table

OWN = ("arraycodec", "numpy", "numba")  # the packages that take part where no others are measured


def bench(found: Bench) -> None:
    """Speed, loss, the peers, and the machine."""
    out = console()
    rows = table("scheme", "dtype", "?>threads", ">encode", "?>ns/elem", ">× copy", ">decode", "?>ns/elem", ">× copy",
                 "?>decode, allocating", "?>copy", title=f"Speed of the NumPy reference on {found.arrays}")  # fmt: skip
    for case in found.cases:

        def per(seconds: float, n: int = case.elements) -> str:
            return f"{1e9 * seconds / n:.2f}"

        rows.add_row(
            cell(case.scheme, "green"), cell(case.dtype), cell(case.threads),
            cell(_ms(case.encode)), cell(per(case.encode)), cell(f"{case.encode / case.copy:.2f}", "bold"),
            cell(_ms(case.decode)), cell(per(case.decode)), cell(f"{case.decode / case.copy:.2f}", "bold"),
            cell(_ms(case.decode_allocating)), cell(_ms(case.copy)),
        )  # fmt: skip
    rows.show(out)
    out.print(cell("encode allocates its planes; decode writes into warm memory (out=); copy is numpy.copyto", "dim"))
    rows = table(
        "scheme", "dtype", ">bits/weight", ">SNR", "?>mean abs error", ">max", "?>working memory", title="Loss"
    )
    for row in found.quality:
        working = "" if row.working_bytes is None else size(row.working_bytes)
        rows.add_row(cell(row.scheme, "green"), cell(row.dtype), cell(f"{row.bits_per_element:.3f}"),
                     cell(decibels(row.snr_db)), cell(f"{row.mae:.4g}"), cell(f"{row.max_abs:.4g}"),
                     cell(working))  # fmt: skip
    rows.show(out)
    if found.peers:
        rows = table("with", "format", "scheme", ">encode", "?>ns/elem", ">× NumPy array", ">decode", "?>ns/elem",
                     ">× NumPy array", ">not our bits", title="The same elsewhere (float32, allocating)")  # fmt: skip
        for peer in found.peers:
            rows.add_row(
                cell(peer.name, "cyan"), cell(peer.format), cell(peer.scheme),
                cell(_ms(peer.encode)), cell(f"{1e9 * peer.encode / peer.elements:.2f}"),
                cell(f"{peer.times_encode:.2f}", "bold"),
                cell(_ms(peer.decode)), cell(f"{1e9 * peer.decode / peer.elements:.2f}"),
                cell(f"{peer.times_decode:.2f}", "bold"),
                cell(percent(peer.differing)),
            )  # fmt: skip
        rows.show(out)
    for note in found.notes:
        out.print(cell(f"note: {note}", "yellow"), soft_wrap=True)
    out.print(cell(_machine(found.machine, *(() if found.peers else OWN)), "dim"), soft_wrap=True)


def lossless(found: LosslessBench) -> None:
    """Size and speed of every mode and peer, and the machine."""
    out = console()
    rows = table("lossless", "~setting", ">ratio", "?>size", ">threads", ">encode", ">decode", "?>decode, out=",
                 "?>peak, encode", "?>peak, decode", title=f"Lossless, MB/s of the whole of {found.file}")  # fmt: skip
    for row in found.contenders:
        for index, speed in enumerate(row.speeds):
            into = "" if speed.decode_into is None else f"{row.raw / speed.decode_into / 1e6:,.0f}"
            first = [cell(row.name, "green" if row.name == OWN[0] else "cyan"), cell(row.setting),
                     cell(f"{row.ratio:.4f}", "bold"), cell(size(row.nbytes))]  # fmt: skip
            rows.add_row(
                *(first if index == 0 else [cell("")] * 4), cell(speed.threads),
                cell(f"{row.raw / speed.encode / 1e6:,.0f}"), cell(f"{row.raw / speed.decode / 1e6:,.0f}", "bold"),
                cell(into), *(cell(_peak(peak) if index == 0 else "") for peak in (row.encode_peak, row.decode_peak)),
            )  # fmt: skip
    rows.show(out)
    out.print(cell("every round trip was compared bit for bit; peaks count what is returned, with one thread", "dim"))
    for note in found.notes:
        out.print(cell(f"note: {note}", "yellow"), soft_wrap=True)
    out.print(cell(_machine(found.machine, *OWN), "dim"), soft_wrap=True)


def _peak(nbytes: int | None) -> str:
    return "" if nbytes is None else size(nbytes)


def formats(found: FormatBench, written: Path | None) -> None:
    """A line for every format and count of threads, and where the page is."""
    out = console()
    rows = table("format", ">threads", ">encode", ">peer", ">times", ">decode", "?>out=", ">peer", ">times", "differs",
                 title=f"GB/s of the dense side, {found.shape[0]} × {found.shape[1]}")  # fmt: skip
    for row in found.rows:
        encode, peer_encode, decode, into, peer_decode = map(
            _rate, map(row.gb_s, (row.encode, row.peer_encode, row.decode, row.decode_into, row.peer_decode))
        )
        rows.add_row(
            cell(row.format, "green"), cell(row.threads), cell(encode), cell(peer_encode),
            cell(_times(row.times_encode), "bold"), cell(decode), cell(into), cell(peer_decode),
            cell(_times(row.times_decode), "bold"), cell(row.differs or "", "red"),
        )  # fmt: skip
    rows.show(out)
    out.print(cell("times: how often ours does it in the peer's time; differs: bits that are not the peer's", "dim"))
    for note in found.notes:
        out.print(cell(f"note: {note}", "yellow"), soft_wrap=True)
    if written is not None:
        out.print(cell(written), soft_wrap=True)
    out.print(cell(_machine(found.machine), "dim"), soft_wrap=True)


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:,.{1 if value < 10 else 0}f}"


def results(found: Results, written: list[Path]) -> None:
    """A line for every file, and what was not measured."""
    out = console()
    for path in written:
        out.print(cell(path), soft_wrap=True)
    for note in found.notes:
        out.print(cell(f"note: {note}", "yellow"), soft_wrap=True)
    out.print(cell(_machine(found.machine), "dim"), soft_wrap=True)


def rates(found: Rates, written: list[Path]) -> None:
    """A line for every scheme, the fewest bits first, and where the page is."""
    out = console()
    rows = table("scheme", ">bits/weight", ">SNR", ">to the Gaussian bound",
                 title=f"{found.source}: {found.matrices} matrices, {found.elements / 1e6:.2f} M weights")  # fmt: skip
    best = frontier(found.rates)
    for rate in found.rates:
        finite = abs(rate.snr_db) != float("inf")
        rows.add_row(
            cell(rate.scheme, "bold green" if rate in best else "green"), cell(f"{rate.bits:.4f}"),
            cell(decibels(rate.snr_db)), cell(decibels(rate.below_bound) if finite else ""),
        )  # fmt: skip
    rows.show(out)
    out.print(cell("bits: codes, scales and codebooks; the bound is 6.02 dB a bit, for normal numbers", "dim"))
    for note in found.notes:
        out.print(cell(f"note: {note}", "yellow"), soft_wrap=True)
    for path in written:
        out.print(cell(path), soft_wrap=True)


def demo(found: Demo) -> None:
    """One row per scheme, and where the plot is."""
    out = console()
    before = found.outcomes[0].bytes_before if found.outcomes else 0
    out.print()
    out.print(cell(f"{found.source}", "bold"), soft_wrap=True)
    out.print(cell(f"{found.tensors} tensors, {found.elements / 1e6:.2f} M weights, {size(before)}"))
    rows = table("scheme", ">size", ">ratio", ">bits/weight", ">SNR", ">encode", ">decode", "verified")
    for row in found.outcomes:
        rows.add_row(
            cell(row.scheme, "bold green"), cell(size(row.bytes_after)),
            cell(f"{row.bytes_before / row.bytes_after:.2f}×", "bold"), cell(f"{row.bits_per_weight:.2f}"),
            cell(decibels(row.snr_db)), cell(_mb_s(row.encode_mb_s)), cell(_mb_s(row.decode_mb_s)),
            cell("✓ every byte" if row.verified else "✗ FAILED", "green" if row.verified else "bold red"),
        )  # fmt: skip
    rows.show(out)
    if found.folder:
        out.print(cell(f"files: {found.folder}", "dim"), soft_wrap=True)
    if found.plot:
        out.print(cell(f"plot:  {found.plot}", "dim"), soft_wrap=True)
    if found.note:
        out.print(cell(found.note, "yellow"), soft_wrap=True)
    out.print(cell(_machine(found.machine, *OWN), "dim"), soft_wrap=True)
    out.print(cell("next:  arraycodec compress model.safetensors --scheme nf4", "dim"), soft_wrap=True)


def _mb_s(speed: float | None) -> str:
    return "" if speed is None else f"{speed:,.0f} MB/s"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _machine(machine: dict[str, str | int], *packages: str) -> str:
    """The machine in one line, with the versions of these packages (all, if none are named)."""
    general = ("cpu", "cores", "cores_available", "system")
    shown = packages or [name for name in machine if name not in general]
    versions = ", ".join(f"{name} {machine[name]}" for name in shown if name in machine)
    return (
        f"{machine['cpu']}, {machine['cores_available']} of {machine['cores']} cores; {machine['system']}, {versions}"
    )
