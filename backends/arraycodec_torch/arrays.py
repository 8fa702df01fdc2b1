"""torch tensors as the core sees arrays: their spec, their bytes as a NumPy array and back, and where decode writes.

Nothing here moves data between devices unless the caller names a device.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._C._functorch import peek_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from arraycodec.base import Planes
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.primitives import memory
from arraycodec.spec import BY_TORCH, DTYPES, ArraySpec, numpy_dtype

_NAMES = {getattr(torch, attribute): row.name for attribute, row in BY_TORCH.items() if hasattr(torch, attribute)}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_INTEGERS = {1: torch.uint8, 2: torch.uint16}  # what stands for the dtypes that NumPy itself does not have
_NOT_IN_NUMPY = {name: numpy_dtype(name) for name in _DTYPES if name.startswith(("bfloat", "float8"))}
_VIEWED = {own: _DTYPES[name] for name, own in _NOT_IN_NUMPY.items()}


def spec(x: Any) -> ArraySpec:
    """The spec of a tensor; a symbolic size becomes the number it stands for."""
    if not isinstance(x, torch.Tensor):
        raise ArgumentError(f"torch: planes and arrays must be torch tensors, got {type(x).__name__}")
    if x.dtype not in _NAMES:
        raise ArgumentError(f"array: dtype must be one of {', '.join(DTYPES)}, got {x.dtype}")
    return ArraySpec(tuple(map(int, x.shape)), _NAMES[x.dtype])


def dtype(name: str) -> torch.dtype:
    """The torch dtype with this name in the dtype table."""
    if name not in _DTYPES:
        raise UnsupportedByBackend(f"torch {torch.__version__} has no dtype {name}")
    return _DTYPES[name]


def at_hand(x: torch.Tensor) -> bool:
    """Whether work on `x` can start at once: it has values, and nothing records or transforms operations on it."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()  # FakeTensorMode, make_fx, export
        or torch._C._get_tracing_state() is not None  # torch.jit.trace
        or peek_interpreter_stack() is not None  # vmap, grad
        or x.device.type == "meta"
        or isinstance(x, FakeTensor)
    )


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """The same bits as a NumPy array: of the same memory for a CPU tensor, a copy from another device."""
    x = x.detach()
    if x.layout != torch.strided or is_traceable_wrapper_subclass(x):
        raise UnsupportedByBackend(f"torch: only dense tensors can be encoded or decoded, got {type(x)} {x.layout}")
    if x.device.type != "cpu":
        x = x.cpu()
    x = x.resolve_neg().resolve_conj()
    own = _NOT_IN_NUMPY.get(_NAMES.get(x.dtype, ""))
    return x.numpy() if own is None else x.view(_INTEGERS[x.element_size()]).numpy().view(own)


def from_numpy(x: np.ndarray, device: Any = None) -> torch.Tensor:
    """The same bits as a tensor; on the CPU it shares the memory of `x` where that is contiguous and writable."""
    x = np.asarray(x)
    if not (x.flags.c_contiguous and x.dtype.isnative):
        x = memory.native(x)
    x = x if x.flags.writeable else x.copy()
    if x.dtype in _VIEWED:
        tensor = torch.from_numpy(x.view(f"u{x.itemsize}")).view(_VIEWED[x.dtype])
    else:
        tensor = torch.from_numpy(x)
    return tensor if device is None else tensor.to(device)


def empty(spec: ArraySpec, device: Any = None) -> torch.Tensor:
    """An uninitialised tensor.

    On the CPU its memory is NumPy's, aligned to 64 bytes: NumPy asks the kernel for huge pages and torch does not,
    which saves most of the time a first write takes.
    """
    if device is None or torch.device(device).type == "cpu":
        return from_numpy(memory.empty(spec))
    return torch.empty(spec.known_shape, dtype=dtype(spec.dtype), device=device)


def flat(x: torch.Tensor) -> torch.Tensor:
    """The elements one after another; a view where they lie so."""
    return x.resolve_neg().contiguous().view(-1)


def stack(arrays: list[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """Tensors of one spec under new leading axes."""
    return torch.stack(arrays).reshape(*shape, *arrays[0].shape)


def put(plane: torch.Tensor, part: torch.Tensor, position: Any) -> torch.Tensor:
    """`plane` with the rows of `part` written into it from row `position` on, an int or a tensor on its device."""
    rows = part.shape[-2]
    if plane.device != part.device:
        raise ArgumentError(f"append: x must be on the cache's device {plane.device}, got {part.device}")
    with torch.no_grad():
        if isinstance(position, torch.Tensor):
            index = position + torch.arange(rows, device=plane.device)
            _small(plane).index_copy_(-2, index, _small(part))
        else:
            plane.narrow(-2, position, rows).copy_(part)
    return plane


def _small(x: torch.Tensor) -> torch.Tensor:
    """float8 as the uint8 that torch can index."""
    return x.view(torch.uint8) if x.element_size() == 1 else x


def tensor(what: str, x: Any) -> torch.Tensor:
    """`x` itself; an error where it is no tensor, which `given` may hold."""
    if not isinstance(x, torch.Tensor):
        raise ArgumentError(f"{what}: must be given torch tensors, got {type(x).__module__}.{type(x).__qualname__}")
    return x


def device_of(what: str, tensors: Iterable[torch.Tensor]) -> torch.device:
    """The one device of these tensors; an error where they are on several, since nothing is moved in silence."""
    devices = {x.device for x in map(partial(tensor, what), tensors)}
    if len(devices) > 1:
        raise ArgumentError(f"{what}: all tensors must be on one device, got {', '.join(sorted(map(str, devices)))}")
    return devices.pop()


def check_out(out: Any, want: ArraySpec, planes: Planes) -> None:
    """Raise unless `out` is exactly what a decode to `want` may write into."""
    if not isinstance(out, torch.Tensor):
        raise ArgumentError(f"decode: out must be a torch tensor, got {type(out).__name__}")
    device = next(iter(planes.values())).device
    if spec(out) != want or out.device != device:
        raise ArgumentError(
            f"decode: out must be {want.dtype}{list(want.shape)} on {device}, "
            f"got {out.dtype}{list(out.shape)} on {out.device}"
        )
    if out.layout != torch.strided or not out.is_contiguous() or out.is_neg() or out.is_conj():
        raise ArgumentError("decode: out must be a contiguous dense tensor")
    if out.requires_grad and torch.is_grad_enabled():
        raise ArgumentError("decode: out must not require grad outside of torch.no_grad()")
    if not at_hand(out):
        return
    first, end = _extent(out)
    for name, plane in planes.items():
        start, stop = _extent(plane)
        if start < end and first < stop:
            raise ArgumentError(f"decode: out must not overlap the plane {name!r}")


def _extent(x: torch.Tensor) -> tuple[int, int]:
    """The addresses from the first byte of `x` to behind its last."""
    if not x.numel():
        return 0, 0
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()
