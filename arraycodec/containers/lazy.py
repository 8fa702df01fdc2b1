"""`LazyTensor`: a tensor in a file, of which only what is asked for is read, checked and decoded."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.base import Codec, Encoded, Given
from arraycodec.codecs.tied import Tied
from arraycodec.containers import checks, checksums, safetensors
from arraycodec.containers.frame import FrameReader
from arraycodec.containers.manifest import Entry
from arraycodec.containers.references import References
from arraycodec.containers.view import Reading, TensorView
from arraycodec.errors import ArgumentError, CorruptError, UnsupportedByBackend
from arraycodec.spec import ArraySpec, spec_of

PIECE = 64 << 20  # bytes that `verify` holds of a plain tensor


class LazyTensor(TensorView):
    """A tensor in a file, read when it is used.

    name, spec (of the decoded array; a sub-byte dtype such as float4_e2m1fn is logical, its data packed uint8),
    shape, dtype, codec (None where stored plain), nbytes (stored bytes), path (of the file that holds it), where (what
    errors call it). A tensor that is tied to another one is read from there.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/m.safetensors"
    >>> ac.save_file({"w": ac.encode(np.ones((4, 64), np.float32), "nf4")}, path)
    >>> with ac.open_file(path) as f:
    ...     f["w"], f["w"][1:3].shape, f["w"][0, :2]
    (LazyTensor('w', float32[4,64], Codebook(table='nf4', block_size=64, flavour=None, offset=False)), \
(2, 64), array([1., 1.], dtype=float32))
    """

    def __init__(
        self,
        file: safetensors.SafetensorsFile,
        tensor: safetensors.Tensor,
        entry: Entry | None,
        how: Reading,
        references: References,
    ) -> None:
        self.name = tensor.name
        self.path = file.path
        self.nbytes = tensor.stop - tensor.start
        self.spec = entry.spec if entry else tensor.spec
        self._file, self._tensor, self._entry, self._how, self._references = file, tensor, entry, how, references
        self._start = file.header.data_start + tensor.start
        self.where = f"{file.path}: tensor {checks.shown(tensor.name)}"

    @cached_property
    def codec(self) -> Codec | None:
        """The codec, or None for a plain tensor; VersionError where it is not known here."""
        if self._entry is None or self._entry.codec is None:
            return None
        with checks.from_file(self.where, (ArgumentError,)):
            return registry.from_json(self._entry.codec)

    @property
    def kept_codec(self) -> Codec | None:
        """The codec of what `stored` gives: that of the other tensor where this one is tied."""
        return self._target.codec if isinstance(self.codec, Tied) else self.codec

    @property
    def needs_base(self) -> bool:
        """Whether it is the difference to an array that another checkpoint holds."""
        return self.codec is not None and "base" in self.codec.inputs and not isinstance(self.codec, Tied)

    @property
    def reads_base(self) -> bool:
        """Whether such an array is needed to decode it: it is the difference to one, or tied to a tensor that is."""
        return (self._target if isinstance(self.codec, Tied) else self).needs_base

    def encoded(self) -> Encoded:
        """The Encoded with planes of the container's framework, for a tied tensor that of the other one.

        ArgumentError for a plain tensor.
        """
        if isinstance(self.codec, Tied):
            return self._trusted_target.encoded()
        return self._moved(self._frame.encoded())

    def decode(self, out: Any = None, *, given: Given | None = None) -> Any:
        """The decoded (or plain) array in the container's framework, on its device.

        out    an array to fill and return, as for `arraycodec.decode`; of a plain tensor NumPy or torch.
        given  the extra inputs that the codec declares; `base` is found by itself where the container has it.
        """
        if self.codec is None:
            value = self._plain()
            return self._placed(value) if out is None else self._copied(value, out)
        if isinstance(self.codec, Tied) and not given:
            if out is None:
                return self._placed(self._numpy())
            self._check_base(api.to_numpy(self._target.decode(out)))
            return out
        self._frame.check_decoded()
        encoded = self._frame.encoded()
        try:
            return self._decoded(self._moved(encoded), self._inputs(given), out)
        except UnsupportedByBackend:  # this device has no decoder of the codec: decode on the host, and place the array
            if out is not None:
                raise
        return self._placed(self._decoded(encoded, self._inputs(given, host=True)))

    def stored(self) -> Any:
        """The Encoded, or the array of a tensor that is stored plain."""
        found = self._target if isinstance(self.codec, Tied) else self
        return self.decode() if found.codec is None else self.encoded()

    def verify(self) -> int:
        """Read and check every stored byte (hashes, padding, the codec's rules) without decoding; the bytes checked.

        That is 0 for a tensor of a plain safetensors file, which has no hashes; its bytes are read all the same. A tie
        is followed and compared, but not to a tensor that takes a base (`reads_base`).
        """
        if self.codec is not None:
            self._open_frame(verify=True).encoded()
            if isinstance(self.codec, Tied) and not self.reads_base:
                self._check_base(self._target._numpy())
            return self.nbytes
        region = self._region(verify=True)
        for at in range(0, self.nbytes, PIECE):
            region.bytes(at, min(at + PIECE, self.nbytes))
        return self.nbytes if self._entry else 0

    def __repr__(self) -> str:
        kind = "plain" if self._entry is None or self._entry.codec is None else None
        return f"LazyTensor({checks.shown(self.name)}, {checks.spec_text(self.spec)}, {kind or self.codec})"

    @cached_property
    def _frame(self) -> FrameReader:
        return self._open_frame(self._how.verify)

    def _open_frame(self, verify: bool) -> FrameReader:
        """The frame, in agreement with what the manifest says of it."""
        if self._entry is None or self.codec is None:
            raise ArgumentError(f"{self.where}: is stored plain, there is no Encoded")
        frame = FrameReader(
            lambda offset, nbytes: self._file.read(self._start + offset, nbytes),
            self.nbytes,
            verify=verify,
            max_bytes=self._how.max_bytes,
            where=self.where,
        )
        got = ArraySpec(frame.shape, frame.spec.dtype)
        if frame.codec != self.codec or got != self.spec:
            raise CorruptError(
                f"{self.where}: the manifest says {self.codec} of {checks.spec_text(self.spec)}, "
                f"the frame {frame.codec} of {checks.spec_text(got)}"
            )
        if verify and f"{frame.digest:016x}" != self._entry.digest:
            raise CorruptError(f"{self.where}: the frame is not the one that the manifest knows by its hash")
        return frame

    def _region(self, verify: bool) -> checksums.Region:
        digests = None
        if verify and self._entry:
            digests = checksums.from_hex(self._entry.digest, checksums.count(self.nbytes), self.where)
        return checksums.Region(self._file.read, self._start, self.nbytes, digests, self.where)

    def _plain(self) -> np.ndarray:
        """The plain array, of the spec it has in memory."""
        checks.within(self.nbytes, self._how.max_bytes, self.where)
        data = self._region(self._how.verify).bytes(0, self.nbytes)
        return safetensors.as_array(data, checks.in_memory(self.spec))

    def _numpy(self) -> np.ndarray:
        """The decoded array, in NumPy whatever the container's framework is."""
        if self.codec is None:
            return self._plain()
        if isinstance(self.codec, Tied):
            value = self._target._numpy()
            self._check_base(value)
            return value
        self._frame.check_decoded()
        return self._decoded(self._frame.encoded(), self._inputs(None, host=True))

    def _decoded(self, encoded: Encoded, given: Given, out: Any = None) -> Any:
        with checks.from_file(self._references.told(self)):
            return api.decode(encoded, out=out, given=given)

    def _inputs(self, given: Given | None, *, host: bool = False) -> Given:
        """`given` with the base that the codec declares; arrays of the container's framework, or on the host."""
        given = dict(given or {})
        if self.codec is not None and "base" in self.codec.inputs and "base" not in given:
            found = self._references.base(self)
            if isinstance(found, LazyTensor):
                found = found._numpy() if host else found.decode()
            own = registry.framework(self._how.framework)
            same = host or registry.backend(type(found)) is own
            given["base"] = found if same else self._placed(api.to_numpy(found))
        return {name: api.to_numpy(value) for name, value in given.items()} if host else given

    @cached_property
    def _target(self) -> LazyTensor:
        """The tensor that this one is tied to."""
        return self._references.target(self)

    @cached_property
    def _trusted_target(self) -> LazyTensor:
        """The same, for those who read a part of it and so cannot compare its hash.

        Within a file the header's hash vouches for both; another file may be of another version, and is compared once.
        """
        target = self._target
        if target.path != self.path and self._how.verify:
            self._check_base(target._numpy())
        return target

    @cached_property
    def _trusted_base(self) -> Any:
        """What a delta is to, an array or LazyTensor, compared once for those who read a part of it."""
        found = self._references.base(self)
        if self._how.verify:
            self._check_base(found._numpy() if isinstance(found, LazyTensor) else api.to_numpy(found))
        return found

    def _check_base(self, value: np.ndarray) -> None:
        """Raise where an array is not the one that this tensor is tied to, or the difference to."""
        frame = self._frame
        fixed = [name for name, plane in frame.codec.planes(frame.spec).items() if plane.fixed]
        with checks.from_file(self._references.told(self)):
            frame.codec.check_base({name: frame.fetch(name, slice(None)) for name in fixed}, frame.spec, value)

    def _part_of_base(self, name: str, piece: slice) -> np.ndarray:
        """Elements of the flattened base."""
        found = self._trusted_base
        found = found if isinstance(found, LazyTensor) else api.to_numpy(found)
        got = found.spec if isinstance(found, LazyTensor) else spec_of(found)
        if got != self.spec:
            want = checks.spec_text(self.spec)
            raise CorruptError(f"{self.where}: the base must be {want}, got {checks.spec_text(got)}")
        start, stop, _ = piece.indices(self.spec.size)
        return found._elements(start, stop) if isinstance(found, LazyTensor) else found.reshape(-1)[start:stop]

    def _elements(self, start: int, stop: int) -> np.ndarray:
        """Elements of the flattened array, of the dtype it has in memory."""
        if isinstance(self.codec, Tied):
            return self._trusted_target._elements(start, stop)
        if self.needs_base and (self._frame.batch_shape or not self._frame.reads_parts):
            return self._numpy().reshape(-1)[start:stop]
        if self.codec is not None:
            return self._frame.elements(start, stop, self._part_of_base)
        part = ArraySpec((stop - start,), checks.in_memory(self.spec).dtype)
        checks.within(part.nbytes, self._how.max_bytes, self.where)
        size = part.numpy_dtype.itemsize
        return safetensors.as_array(self._region(self._how.verify).bytes(start * size, stop * size), part)
