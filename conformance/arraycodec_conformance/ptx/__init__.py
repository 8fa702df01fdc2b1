"""Execute the PTX that Triton compiles to, on the CPU, with the bits a GPU would give, or a refusal.

A Triton kernel is compiled ahead of time for a GPU that need not be there, and the PTX is executed by NumPy,
one lane per thread. Triton's own interpreter checks logic only: it hides contraction to fused multiply-add,
approximate division and integer overflow, all of which are in the PTX.

    kernel = ptx.compile(decode, {"codes": "*u8", "out": "*fp32", "n": "i64"}, {"BLOCK": 1024})
    memory = ptx.Memory()
    codes, out = memory.put(array), memory.alloc(array.size * 2, np.float32)
    kernel.run(memory, grid=4, args=[codes, out, array.size])
    values = memory.get(out, np.float32, array.size * 2)

It never guesses. Each of these raises a subclass of `PtxError` that names the instruction, the program and
the thread:

- `UnsupportedInstruction`: an opcode or modifier that is not in `supported_opcodes()`;
- `InexactInstruction`: approximate, flushing subnormals, or open to contraction: the device decides the bits;
- `MemoryFault`: out of bounds, misaligned, or never written (registers too), or contradicting stores;
- `SharedRace`: warps share a byte with no barrier between, found even if this schedule happens to be right;
- `Divergence`: a barrier that some threads do not reach; `UndefinedResult`: an integer division by zero.

Global memory is a sparse address space: `Memory.window` makes a buffer of 2^33 bytes of which only a few
windows exist, and `run(..., programs=[...])` executes only chosen programs, so index overflow is tested with
little memory.

Not modelled: the caches' order of accesses between blocks, atomics, asynchronous copies, tensor cores,
clusters, and what ptxas does with the PTX (contraction is excluded by `.rn`, which is why other opcodes are
refused). NaN payloads that PTX leaves open become the canonical NaN. `Kernel` executes PTX from any source.
"""

from .compile import Compiled, compile
from .errors import (
    Divergence,
    InexactInstruction,
    MemoryFault,
    PtxError,
    SharedRace,
    UndefinedResult,
    UnsupportedInstruction,
)
from .execute import Execution, Kernel
from .memory import Memory
from .opcodes import supported_opcodes

__all__ = [
    "Compiled",
    "Divergence",
    "Execution",
    "InexactInstruction",
    "Kernel",
    "Memory",
    "MemoryFault",
    "PtxError",
    "SharedRace",
    "UndefinedResult",
    "UnsupportedInstruction",
    "compile",
    "supported_opcodes",
]
