"""What the libraries that work on torch tensors share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from arraycodec import registry


def tensor(x: np.ndarray) -> Any:
    """The array as a torch tensor on the same memory."""
    return registry.framework("torch").from_numpy(x)


def stored(value: Any) -> int:
    """The bytes of a tensor; of a tensor subclass, those of the tensors it is made of."""
    if hasattr(value, "__tensor_flatten__"):
        return sum(stored(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.numel() * value.element_size()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have torch use so many threads while the block runs, where torch is installed."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
