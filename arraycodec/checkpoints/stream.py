"""`StreamingLoader`: a checkpoint layer by layer, the next one decoded by a thread while one is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from arraycodec.containers.checks import shown
from arraycodec.errors import ArgumentError
from arraycodec.formats.checkpoint import open_checkpoint

Layer = tuple[str, int]  # the stack of layers it belongs to, and its number there
Rule = Callable[[str], Layer | None]  # a tensor's name -> its layer, or None


class StreamingLoader:
    """An open checkpoint whose layers are decoded one at a time: for models that are larger than memory.

    path       a checkpoint of any format that `open_checkpoint` knows.
    device     where tensors go; framework is "numpy", "torch" or "jax".
    base       what deltas are to, as for `open_checkpoint`, whose arguments `verify` and `max_bytes` are too.
    layer_of   a tensor's name -> (stack, number) of its layer, or None for what belongs to none. By default
               `numbered_layers(names)`: `model.layers.7.mlp.up_proj.weight` is layer 7 of the stack `model.layers.`

    `layers` holds the names of each layer's tensors, `non_layer` the others. Headers are read at once, tensors when
    they are asked for. Use as a context manager, or call `close()`.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/m.safetensors"
    >>> ac.save_file({"embed": np.ones(3), "h.0.w": np.zeros(2), "h.1.w": np.ones(2)}, path)
    >>> with ac.StreamingLoader(path) as model:
    ...     print(list(model.load_non_layer_tensors()))
    ...     for i, layer in model.iter_layers():
    ...         print(i, {name: array.sum() for name, array in layer.items()})
    ['embed']
    0 {'h.0.w': np.float64(0.0)}
    1 {'h.1.w': np.float64(2.0)}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: Any = None,
        framework: str = "numpy",
        *,
        base: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        verify: bool = True,
        max_bytes: int | None = None,
        layer_of: Rule | None = None,
    ) -> None:
        self._file = open_checkpoint(
            path, framework=framework, device=device, base=base, verify=verify, max_bytes=max_bytes
        )
        try:
            self.layers, self.non_layer = _grouped(self._file, layer_of or numbered_layers(self._file))
        except BaseException:
            self._file.close()
            raise
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "arraycodec-stream")

    def load_non_layer_tensors(self) -> dict[str, Any]:
        """The tensors that belong to no layer: embeddings, the last norm, the head; all of a model without layers."""
        return self._load(self.non_layer)

    def iter_layers(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(i, the layer's tensors by their whole names) for i = 0, 1, ... over all layers.

        While one layer is used, a thread decodes the next one and no more: at most two are in memory, provided that
        the caller keeps none. Stacks (an encoder and a decoder, say) come in the order of the file, layers of a stack
        by their numbers. An error of the thread is raised here, when its layer is asked for.
        """
        ahead = self._ahead(0)
        try:
            for i in range(len(self.layers)):
                self._check_open()
                loaded = [ahead.result()]  # no name here may hold a layer while the caller uses it
                ahead = self._ahead(i + 1)
                yield i, loaded.pop()
        finally:
            ahead.cancel()

    def close(self) -> None:
        """Stop decoding ahead and close the files; tensors already loaded stay valid."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._file.close()

    def __enter__(self) -> StreamingLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<StreamingLoader {shown(self._file.path)}: {len(self.layers)} layers>"

    def _ahead(self, i: int) -> Future[dict[str, Any]]:
        """Layer `i` in the making; nothing where there is none."""
        return self._check_open().submit(self._load, self.layers[i] if i < len(self.layers) else ())

    def _check_open(self) -> ThreadPoolExecutor:
        if self._pool is None:
            raise ArgumentError(f"{self._file.path}: the loader is closed")
        return self._pool

    def _load(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: self._file[name].decode() for name in names}


def numbered_layers(names: Iterable[str]) -> Rule:
    """The default rule of a `StreamingLoader`, for a model whose tensors have these names.

    Of the parts of a name between dots, the first number counts under whose prefix the model has at least two: it is
    the layer's, and the prefix is the stack. `encoder.layer.3.output.weight` is layer 3 of the stack `encoder.layer.`,
    and expert 5 in `layers.0.experts.5.w1` belongs to layer 0. A number that stands alone makes no stack.

    >>> rule = numbered_layers(["wte.weight", "h.0.w", "h.1.w", "pool.0.weight"])
    >>> rule("h.1.w"), rule("wte.weight"), rule("pool.0.weight")
    (('h.', 1), None, None)
    """
    numbers: dict[str, set[int]] = {}
    for name in names:
        for stack, number in _numbers(name):
            numbers.setdefault(stack, set()).add(number)
    return lambda name: next((found for found in _numbers(name) if len(numbers.get(found[0], ())) > 1), None)


def _numbers(name: str) -> Iterator[Layer]:
    """(prefix, number) for every part of a name that is a number."""
    at = 0
    for part in name.split("."):
        if part.isascii() and part.isdecimal() and len(part) < 10:
            yield name[:at], int(part)
        at += len(part) + 1


def _grouped(names: Iterable[str], layer_of: Rule) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """The names of each layer, and those of none; stacks come as they do in the file, layers by their numbers."""
    stacks: dict[str, dict[int, list[str]]] = {}
    others: list[str] = []
    for name in names:
        if (found := layer_of(name)) is None:
            others.append(name)
        else:
            if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], int)):
                raise ArgumentError(f"layer_of must give (stack, number) or None, got {found!r} for {name!r}")
            stack, number = found
            stacks.setdefault(stack, {}).setdefault(number, []).append(name)
    layers = (stacks[stack][number] for stack in stacks for number in sorted(stacks[stack]))
    return tuple(map(tuple, layers)), tuple(others)
