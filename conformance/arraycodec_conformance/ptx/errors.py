"""Why a kernel cannot be executed, or must not be trusted: one class per kind of finding.

Every one of them is a result worth having, so none is a warning: a test that runs a kernel either gets the
bits the PTX language defines, or one of these.
"""

from __future__ import annotations


class PtxError(Exception):
    """Base of everything the executor raises about a kernel.

    `at` is the index, among the lanes that took part in the instruction, of the first one concerned; the
    executor turns it into a program and a thread for the message.
    """

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


class UnsupportedInstruction(PtxError):
    """An instruction, modifier or operand the executor does not know. It never guesses a meaning."""


class InexactInstruction(PtxError):
    """The bits depend on the device: approximate, flushing subnormals, or open to contraction."""


class UndefinedResult(PtxError):
    """PTX leaves the result open for these operands (integer division by zero)."""


class MemoryFault(PtxError):
    """Out of bounds, misaligned, never written, an unset register, or stores that contradict each other."""


class SharedRace(PtxError):
    """Two warps touch one byte of shared memory with no barrier between, and one of them changes it."""


class Divergence(PtxError):
    """A barrier or a warp-wide instruction was reached by some of its threads only."""
