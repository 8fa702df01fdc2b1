"""Frames: round trips, size, determinism, partial reads."""

import io
import threading

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import frame
from arraycodec.containers.checksums import CHUNK
from arraycodec.spec import DTYPES, spec_of
from tests.containers.support import assert_bits, header_of, same, weights

CODECS = ["nf4", "fp4", "dynamic", "nf4-double", ac.Codebook("nf4", block_size=None), ac.Codebook("nf4", block_size=7)]
SHAPES = [(), (0,), (1,), (3, 0, 2), (5, 7), (64,), (4, 256), (2, 3, 64)]


def stacked(*shape: int, count: tuple[int, ...] = (2, 3), codec="nf4") -> ac.Encoded:
    """An Encoded whose planes carry leading axes, as from stacked layers."""
    ones = [ac.encode(weights(*shape, seed=i), codec) for i in range(int(np.prod(count)))]
    planes = {
        n: np.stack([e.planes[n] for e in ones]).reshape(*count, *ones[0].planes[n].shape) for n in ones[0].planes
    }
    return ac.Encoded(ones[0].codec, ones[0].spec, planes)


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trip(codec, shape, dtype):
    enc = ac.encode(weights(*shape, dtype=dtype), codec)
    data = ac.to_bytes(enc)
    same(ac.from_bytes(data), enc)
    same(ac.from_bytes(memoryview(bytearray(data)), verify=False), enc)
    assert data == ac.to_bytes(ac.from_bytes(data))
    specs = {name: spec_of(plane) for name, plane in enc.planes.items()}
    assert len(data) == frame.frame_size(enc.codec, enc.spec, specs) and len(data) % 64 == 0


def test_user_table_and_batch():
    table = np.linspace(-1, 1, 16, dtype=np.float32)
    enc = ac.encode(weights(4, 64), ac.Codebook("user4"), given={"codebook": table})
    same(ac.from_bytes(ac.to_bytes(enc)), enc)
    for codec in ("nf4", "nf4-double"):
        enc = stacked(5, 64, codec=codec)
        back = ac.from_bytes(ac.to_bytes(enc))
        same(back, enc)
        assert back.batch_shape == (2, 3)
        assert_bits(ac.decode(back), ac.decode(enc))


def test_planes_are_aligned_writable_and_independent():
    enc = ac.encode(weights(8, 64), "nf4")
    buffer = bytearray(ac.to_bytes(enc))
    back = ac.from_bytes(buffer)
    buffer[:] = bytes(len(buffer))
    same(back, enc)
    for plane in back.planes.values():
        assert plane.ctypes.data % 64 == 0 and plane.flags.writeable


@pytest.mark.parametrize(
    "shape", [(4096, 4096), (4096, 11008), (128, 64), (1000, 64), (151936, 64)], ids=lambda s: "x".join(map(str, s))
)
def test_overhead(shape):
    """At most 256 bytes beside planes and checksums, where planes are whole multiples of 64 bytes."""
    codec, spec = ac.codec("nf4"), ac.ArraySpec(shape, "bfloat16")
    planes = codec.planes(spec)
    size = frame.frame_size(codec, spec, planes)
    checksums = 8 * sum(-(-plane.nbytes // CHUNK) for plane in planes.values())
    padding = sum(-plane.nbytes % 64 for plane in planes.values())
    assert size - sum(plane.nbytes for plane in planes.values()) - checksums - padding <= 256


def test_deterministic(tmp_path):
    x = weights(1 << 11, 1 << 10)
    before = ac.get_num_threads()
    try:
        frames = []
        for threads in (1, 2, 3):
            ac.set_num_threads(threads)
            frames.append(ac.to_bytes(ac.encode(x, "nf4")))
    finally:
        ac.set_num_threads(before)
    assert frames[0] == frames[1] == frames[2]
    enc = ac.encode(x, "nf4")
    shuffled = ac.Encoded(enc.codec, enc.spec, dict(reversed(enc.planes.items())))
    strided = ac.Encoded(enc.codec, enc.spec, {n: np.asfortranarray(p) for n, p in enc.planes.items()})
    swapped = ac.Encoded(enc.codec, enc.spec, {n: p.astype(p.dtype.newbyteorder(">")) for n, p in enc.planes.items()})
    assert ac.to_bytes(shuffled) == ac.to_bytes(strided) == ac.to_bytes(swapped) == frames[0]


def test_buffers_copy_no_plane():
    enc = ac.encode(weights(64, 64), "nf4")
    buffers = frame.frame_buffers(enc)
    assert b"".join(buffers) == ac.to_bytes(enc)
    assert any(isinstance(b, np.ndarray) and np.shares_memory(b, enc.planes["codes"]) for b in buffers)


def test_writer_refuses():
    enc = ac.encode(weights(4, 64), "nf4")
    with pytest.raises(ac.FormatError, match="planes must be"):
        ac.to_bytes(ac.Encoded(enc.codec, enc.spec, {"codes": enc.planes["codes"]}))
    with pytest.raises(ac.FormatError, match="codes"):
        ac.to_bytes(ac.Encoded(enc.codec, enc.spec, enc.planes | {"codes": enc.planes["codes"][:2]}))
    with pytest.raises(ac.ArgumentError, match="bytes"):
        ac.from_bytes("text")  # type: ignore[arg-type]


def test_limits():
    data = ac.to_bytes(ac.encode(weights(64, 64), "nf4"))
    assert ac.from_bytes(data, max_bytes=64 * 64 * 4)
    for most in (0, 1000, 64 * 64 * 4 - 1):
        with pytest.raises(ac.LimitError, match="max_bytes"):
            ac.from_bytes(data, max_bytes=most)
    with pytest.raises(ac.ArgumentError):
        ac.from_bytes(data, max_bytes=-1)


class CountingReader(frame.FrameReader):
    """A FrameReader over bytes that keeps a list of its reads."""

    def __init__(self, data: bytes, **options):
        self.reads: list[tuple[int, int]] = []
        array = np.frombuffer(data, np.uint8).copy()

        def read(offset, nbytes):
            self.reads.append((offset, nbytes))
            return array[offset : offset + nbytes].copy()

        super().__init__(read, len(data), **options)


def test_partial_reads_touch_only_their_chunks():
    enc = ac.encode(weights(4096, 2048), "nf4")  # codes 4 MiB, absmax 0.5 MiB
    decoded, data = ac.decode(enc), ac.to_bytes(enc)
    reader = CountingReader(data)
    assert sum(n for _, n in reader.reads) <= 4096
    reader.reads.clear()
    assert_bits(reader.elements(2048 * 10, 2048 * 12), decoded[10:12].reshape(-1))
    assert len(reader.reads) == 2 and sum(n for _, n in reader.reads) == CHUNK + CHUNK // 2
    codes = header_of(data).planes["codes"]
    broken = bytearray(data)
    broken[codes.offset + 3 * CHUNK + 5] ^= 1
    reader = CountingReader(bytes(broken))
    assert_bits(reader.elements(0, 2048), decoded[0])
    with pytest.raises(ac.CorruptError, match=f"bytes {codes.offset + 3 * CHUNK}.*chunk 3 of 4"):
        reader.elements(decoded.size - 1, decoded.size)
    with pytest.raises(ac.CorruptError, match="chunk 3"):
        reader.encoded()
    reader = CountingReader(data, verify=False)
    reader.reads.clear()
    assert_bits(reader.elements(2048, 4096), decoded[1])
    assert sum(n for _, n in reader.reads) == 1024 + 128


def test_elements_of_every_kind():
    rng = np.random.default_rng(1)
    for enc in [
        ac.encode(weights(33, 65), "nf4"),
        ac.encode(weights(33, 65), "nf4-double"),
        ac.encode(weights(999), ac.Codebook("dynamic", block_size=None)),
        stacked(3, 64),
        stacked(5, 7, codec="nf4-double"),
    ]:
        reader, decoded = CountingReader(ac.to_bytes(enc)), ac.decode(enc).reshape(-1)
        for start, stop in [(0, 0), (0, 1), (0, decoded.size), (5, 3), *rng.integers(0, decoded.size + 1, (20, 2))]:
            assert_bits(reader.elements(int(start), int(stop)), decoded[start : max(start, stop)])
        assert_bits(reader.fetch("codes", slice(3, 9)), enc.planes.get("codes").reshape(-1)[3:9])


def test_threads_share_a_reader():
    enc = ac.encode(weights(256, 256), "nf4")
    decoded, reader, failed = ac.decode(enc).reshape(-1), CountingReader(ac.to_bytes(enc)), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            start, stop = sorted(rng.integers(0, decoded.size, 2))
            if reader.elements(start, stop).tobytes() != decoded[start:stop].tobytes():
                failed.append((start, stop))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failed


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_frameworks_write_the_same_bytes(framework):
    pytest.importorskip(framework)
    backend = pytest.importorskip(f"arraycodec_{framework}")
    for codec in ("nf4", "nf4-double", "dynamic"):
        for dtype in ("float32", "bfloat16"):
            x = weights(6, 64, dtype=dtype)
            enc = ac.encode(x, codec)
            assert ac.to_bytes(ac.encode(backend.from_numpy(x, None), codec)) == ac.to_bytes(enc)
            planes = {n: backend.from_numpy(p, None) for n, p in enc.planes.items()}
            assert ac.to_bytes(ac.Encoded(enc.codec, enc.spec, planes)) == ac.to_bytes(enc)


def test_every_plane_dtype_has_whole_bytes():
    assert sum(row.bits % 8 == 0 for row in DTYPES.values()) == len(DTYPES) - 3
    assert io.BytesIO(ac.to_bytes(ac.encode(weights(1), "nf4"))).read(4) == b"\x89acf"
