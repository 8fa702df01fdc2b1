"""GGUF files: the container with every check, its tensors through `open_checkpoint`, and what hostile bytes do."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.gguf_file import GgufFile
from arraycodec.formats.translated import Translated
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec_conformance.cases import any_bytes
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from tests.codecs.peers import needs

UINT8, BOOL, UINT32, STRING, ARRAY = 0, 7, 4, 8, 9
FLOAT32, FLOAT16, INT32, BFLOAT16 = 0, 1, 26, 30


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + values


ENTRIES = {
    "general.architecture": (STRING, string("llama")),
    "general.alignment": (UINT32, struct.pack("<I", 64)),
    "llama.block_count": (UINT32, struct.pack("<I", 2)),
    "a.flag": (BOOL, b"\1"),
    "a.byte": (UINT8, b"\xff"),
    "a.small": (3, struct.pack("<h", -3)),
    "a.float": (6, struct.pack("<f", 0.5)),
    "a.double": (12, struct.pack("<d", 0.1)),
    "a.long": (11, struct.pack("<q", -(2**40))),
    "tokenizer.ggml.tokens": (ARRAY, array(STRING, 3, string("a") + string("é") + string(b"\xff\xfe"))),
    "tokenizer.ggml.scores": (ARRAY, array(6, 2, struct.pack("<2f", 1, -2))),
    "a.nested": (ARRAY, array(ARRAY, 2, array(UINT8, 2, b"\1\2") + array(UINT8, 0, b""))),
}
# name -> (number of its type, shape in NumPy's order, bytes)
Tensors = dict[str, tuple[int, tuple[int, ...], bytes]]


def gguf(
    tensors: Tensors, entries: dict[str, tuple[int, bytes]] | None = None, version: int = 3, alignment: int = 64
) -> bytes:
    """A whole file; the alignment must be what the entries say."""
    entries = ENTRIES if entries is None else entries
    head, data = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(entries)), b""
    head += b"".join(entry(key, kind, value) for key, (kind, value) in entries.items())
    for name, (number, shape, raw) in tensors.items():
        head += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", number, len(data))
        data += raw.ljust(-(-len(raw) // alignment) * alignment, b"\0")
    return head.ljust(-(-len(head) // alignment) * alignment, b"\0") + data


def blocks(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Any bytes but for the factors, which are finite."""
    found = any_bytes(ac.Gguf(name).planes(ac.ArraySpec(shape, "float32")), TYPES[name].number)["blocks"]
    for at in (TYPES[name].d, TYPES[name].m):
        if at is not None:
            found.reshape(-1, TYPES[name].nbytes)[:, at + 1] &= 0xBB
    return found


def some_tensors() -> Tensors:
    """One of each block type, and plain ones."""
    plain: dict[str, tuple[int, np.ndarray]] = {
        "norm.weight": (FLOAT32, np.arange(5, dtype=np.float32)),
        "half": (FLOAT16, np.arange(6, dtype=np.float16).reshape(2, 3)),
        "brain": (BFLOAT16, np.arange(4, dtype=np.uint16) << np.uint16(7)),
        "ids": (INT32, np.arange(3, dtype=np.int32)),
    }
    found: Tensors = {name: (number, x.shape, x.tobytes()) for name, (number, x) in plain.items()}
    for name, block in TYPES.items():
        found[f"blk.{name}.weight"] = (block.number, (3, 512), blocks(name, (3, 512)).tobytes())
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(some_tensors()))
    return path


# -- tensors


@pytest.mark.parametrize("version", [2, 3])
def test_every_type(path: Path, version: int) -> None:
    path.write_bytes(gguf(some_tensors(), version=version))
    with ac.open_checkpoint(path) as model:
        assert model.format == "gguf" and list(model) == list(some_tensors())
        for name in TYPES:
            tensor, codec, spec = model[f"blk.{name}.weight"], ac.Gguf(name), ac.ArraySpec((3, 512), "float32")
            want = codec.decode({"blocks": blocks(name, (3, 512))}, spec)
            assert (tensor.codec, tensor.spec, tensor.nbytes) == (codec, spec, blocks(name, (3, 512)).nbytes)
            same_bits(tensor.decode(), want, name)
            same_bits(ac.decode(tensor.encoded()), want, f"{name}: encoded")
            same_bits(tensor[1:3], want[1:3], f"{name}: rows")
            same_bits(tensor[2, 7:9], want[2, 7:9], f"{name}: part of a row")
            assert tensor.verify() == 0
        assert model["norm.weight"].codec is None
        same_bits(model["norm.weight"].decode(), np.arange(5, dtype=np.float32), "float32")
        same_bits(model["half"][1], np.array([3, 4, 5], np.float16), "float16")
        assert model["brain"].dtype == "bfloat16" and model["ids"].dtype == "int32"


def test_metadata(path: Path) -> None:
    with ac.open_checkpoint(path) as model:
        found: dict[str, Any] = model.metadata
    assert list(found) == list(ENTRIES)
    assert found["general.architecture"] == "llama" and found["llama.block_count"] == 2
    assert (found["a.flag"], found["a.byte"], found["a.small"], found["a.long"]) == (True, 255, -3, -(2**40))
    assert (found["a.float"], found["a.double"]) == (0.5, 0.1)
    assert found["tokenizer.ggml.tokens"][:2] == ["a", "é"]
    assert found["tokenizer.ggml.tokens"][2].encode(errors="surrogateescape") == b"\xff\xfe"
    same_bits(found["tokenizer.ggml.scores"], np.array([1, -2], np.float32), "scores")
    assert [part.tolist() for part in found["a.nested"]] == [[1, 2], []]


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_other_frameworks(path: Path, framework: str) -> None:
    pytest.importorskip(framework)
    with ac.open_checkpoint(path) as model, ac.open_checkpoint(path, framework=framework) as other:
        for name in ("blk.Q4_K.weight", "norm.weight"):
            got = other[name].decode()
            assert type(got).__module__.split(".")[0] in (framework, "jaxlib")
            same_bits(np.asarray(got), model[name].decode(), name)


def test_a_slice_reads_the_blocks_around_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ac.open_checkpoint(path) as model:
        read: list[int] = []
        own = cast(Translated, model["blk.Q4_K.weight"]).parts["blocks"]._file
        monkeypatch.setattr(
            own, "read", lambda offset, nbytes, do=own.read: (read.append(nbytes), do(offset, nbytes))[1]
        )
        model["blk.Q4_K.weight"][1]
    assert read == [2 * 144]


def test_a_factor_that_is_not_finite_is_found_by_verify(path: Path) -> None:
    raw = blocks("Q4_K", (3, 512))
    raw.reshape(-1, 144)[4, 3] = 0x7C
    path.write_bytes(gguf({"w": (TYPES["Q4_K"].number, (3, 512), raw.tobytes())}))
    with ac.open_checkpoint(path) as model:
        assert model["w"].decode().shape == (3, 512)
        with pytest.raises(
            ac.CorruptError, match=r"weight 'w': m must be finite; it is not in 1 blocks, first in block 4"
        ):
            model["w"].verify()


def test_a_limit_of_memory(path: Path) -> None:
    with ac.open_checkpoint(path, max_bytes=1000) as model:
        with pytest.raises(ac.LimitError, match=r"weight 'blk\.Q4_K\.weight': needs 6144 bytes"):
            model["blk.Q4_K.weight"].decode()
        assert model["norm.weight"].decode().size == 5


# -- a model in several files


def parts(folder: Path, numbers: tuple[int, ...] = (0, 1, 2), total: int = 19) -> Path:
    """Three files with the tensors of `some_tensors`, and what they say of their number and of all."""
    every, names = some_tensors(), list(some_tensors())
    for k, number in enumerate(numbers):
        entries = {
            "split.no": (2, struct.pack("<H", number)),
            "split.count": (2, struct.pack("<H", 3)),
            "split.tensors.count": (5, struct.pack("<i", total)),
        }
        own = {name: every[name] for name in names[7 * k : 7 * k + 7]}
        raw = gguf(own, (ENTRIES if not k else {"general.alignment": ENTRIES["general.alignment"]}) | entries)
        (folder / f"m-{k + 1:05}-of-00003.gguf").write_bytes(raw)
    return folder / "m-00002-of-00003.gguf"


def test_a_model_in_several_files(tmp_path: Path, path: Path) -> None:
    """Any of them may be named; all tensors are there, with the metadata of the first."""
    with ac.open_checkpoint(parts(tmp_path, total=len(some_tensors()))) as model, ac.open_checkpoint(path) as whole:
        assert list(model) == list(whole)
        assert len(model.paths) == 3 and model.metadata["general.architecture"] == "llama"
        for name, tensor in whole.items():
            same_bits(model[name].decode(), tensor.decode(), name)
    with pytest.raises(ac.ArgumentError, match="is closed"):
        model["norm.weight"].decode()


def test_a_folder_of_one_model(tmp_path: Path, path: Path) -> None:
    """Its parts are one checkpoint for everything; sizes are those of all files."""
    (folder := tmp_path / "model").mkdir()
    parts(folder, total=len(some_tensors()))
    (folder / "tokenizer.json").write_text("{}")
    assert ac.diff(folder, path).equal and ac.verify(folder).ok
    assert ac.info(folder).stored == sum(file.stat().st_size for file in folder.glob("*.gguf"))
    report = ac.convert(folder, tmp_path / "dense", "dense")
    assert report.before == ac.info(folder).stored and ac.diff(tmp_path / "dense", path).equal
    (folder / "m-00001-of-00003.gguf").unlink()
    with pytest.raises(OSError, match="m-00001-of-00003"):
        ac.open_checkpoint(folder)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ac.CorruptError, match=r"must have 19 tensors, got 20"):
        ac.open_checkpoint(parts(tmp_path))
    with pytest.raises(ac.CorruptError, match=r"00003-of-00003\.gguf: must be part 2 of 3, says it is \(1, 3\)"):
        ac.open_checkpoint(parts(tmp_path, (0, 1, 1)))
    lone = parts(tmp_path).rename(tmp_path / "model.gguf")
    with pytest.raises(ac.FormatError, match=r"is a part of 3, and not named like model-00001-of-00003\.gguf"):
        ac.open_checkpoint(lone)
    with pytest.raises(FileNotFoundError, match=r"m-00002-of-00003\.gguf"):
        ac.open_checkpoint(tmp_path / "m-00001-of-00003.gguf")


# -- what is no GGUF file, or a broken one


def edited(**entries: tuple[int, bytes]) -> bytes:
    return gguf({}, {key.replace("__", "."): value for key, value in entries.items()})


F32 = np.zeros(16, np.float32).tobytes()
TWICE = gguf({"w": (0, (16,), F32), "v": (0, (16,), F32)}, {}, alignment=32)
BROKEN = {
    "another file": (b"PK\3\4" + bytes(60), ac.FormatError, "must be a GGUF file, got a zip archive"),
    "empty": (b"", ac.FormatError, "must be a GGUF file, got an empty file"),
    "ends in the head": (TWICE[:30], ac.CorruptError, "truncated|cannot be"),
    "version 1": (gguf({}, version=1), ac.FormatError, "version must be 2 or 3, got 1"),
    "version 4": (gguf({}, version=4), ac.VersionError, "version must be 2 or 3, got 4"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), ac.FormatError, "is big-endian"),
    "2^64 - 1 tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 2**64 - 1, 0), ac.CorruptError, "18446744073709551615 tens"),
    "2^40 entries": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**40), ac.CorruptError, "1099511627776 metadata entries"),
    "2^62 numbers": (edited(a=(ARRAY, array(12, 2**62, b""))), ac.CorruptError, "'a': 4611686018427387904 elements"),
    "2^62 arrays": (edited(a=(ARRAY, array(ARRAY, 2**62, b""))), ac.CorruptError, "elements of an array cannot be"),
    "2^63 bytes": (edited(a=(STRING, struct.pack("<Q", 2**63))), ac.CorruptError, "bytes of a string cannot be"),
    "deep": (edited(a=(ARRAY, array(9, 1, b"") * 5 + array(0, 0, b""))), ac.FormatError, "at most 4 deep"),
    "no type": (edited(a=(13, b"")), ac.FormatError, "metadata 'a': a type must be one of"),
    "no bool": (edited(a=(BOOL, b"\2")), ac.CorruptError, "a bool must be 0 or 1"),
    "alignment 48": (edited(general__alignment=(4, struct.pack("<I", 48))), ac.FormatError, "must be a power of two"),
    "alignment 0": (edited(general__alignment=(4, bytes(4))), ac.FormatError, "must be a power of two"),
    "key twice": (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + 2 * entry("k", 0, b"\0"), ac.CorruptError, "'k': stands twice",
    ),
    "key no UTF-8": (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + string(b"\xff") + struct.pack("<IB", 0, 0), ac.FormatError,
        "key must be UTF-8",
    ),
    "name twice": (TWICE.replace(string("v"), string("w")), ac.CorruptError, "tensor 'w' stands twice"),
    "overlap": (TWICE.replace(struct.pack("<IQ", 0, 64), struct.pack("<IQ", 0, 32)), ac.CorruptError, "overlap: 'v'"),
    "hole": (TWICE.replace(struct.pack("<IQ", 0, 64), struct.pack("<IQ", 0, 96)), ac.CorruptError, "leave a hole: 'v'"),
    "not aligned": (
        TWICE.replace(struct.pack("<IQ", 0, 64), struct.pack("<IQ", 0, 65)), ac.CorruptError, "multiple of 32, got 65",
    ),
    "data cut": (TWICE[:-1], ac.CorruptError, "truncated: data ends at"),
    "more data": (TWICE + b"\0", ac.CorruptError, "bytes follow the data"),
    "five axes": (gguf({"w": (0, (1,) * 5, bytes(4))}, {}, alignment=32), ac.FormatError, "at most 4 axes, got 5"),
    "size overflows": (
        gguf({"w": (0, (2**32, 2**32), bytes(4))}, {}, alignment=32), ac.FormatError, "more than 2\\^48 elements",
    ),
    "unknown type": (gguf({"w": (99, (32,), bytes(32))}, {}, alignment=32), ac.VersionError, "the type has number 99"),
    "rows of half blocks": (
        gguf({"w": (12, (4, 128), bytes(288))}, {}, alignment=32), ac.FormatError, "must be a multiple of 256 elements",
    ),
    "type not read": (
        gguf({"w": (16, (256,), bytes(66))}, {}, alignment=32), ac.FormatError, "in IQ2_XXS, which is not read; known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path: Path, name: str) -> None:
    raw, error, message = BROKEN[name]
    path = tmp_path / "broken.gguf"
    path.write_bytes(raw)
    with pytest.raises(error, match=message) as caught:
        ac.open_checkpoint(path)
    assert str(caught.value).startswith(str(path))


def test_changed_bytes_end_in_an_error_of_ours_and_soon(path: Path, level: Level) -> None:
    """Every bit of the head (at default level some), and every length: an error of our tree, or a file that reads."""
    whole = path.read_bytes()
    with GgufFile(path) as file:
        head = file.data_start
    step = 1 if level >= Level.full else 97
    changes = [
        bytes([*whole[: b // 8], whole[b // 8] ^ (1 << b % 8), *whole[b // 8 + 1 :]]) for b in range(0, 8 * head, step)
    ]
    changes += [whole[:length] for length in range(0, len(whole), step)]
    rng = np.random.default_rng(0)
    for _ in range(len(changes) // 8):
        at = int(rng.integers(0, head - 8))
        changes.append(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    refused = 0
    for changed in changes:
        path.write_bytes(changed)
        start = time.perf_counter()
        try:
            with ac.open_checkpoint(path) as model:
                for tensor in model.values():
                    tensor.decode()
        except ac.FormatError as error:
            assert str(error).isprintable()
            refused += 1
        assert time.perf_counter() - start < 5
    assert refused > len(changes) // 2


@pytest.mark.level("full")
@needs("gguf")
def test_a_file_that_gguf_py_wrote(tmp_path: Path) -> None:
    import gguf as peer

    writer = peer.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    want = {}
    for name in TYPES:
        raw, kind = blocks(name, (4, 512)), peer.GGMLQuantizationType[name]
        writer.add_tensor(name, raw, raw_dtype=kind)
        want[name] = peer.quants.dequantize(raw, kind)
    writer.add_tensor("norm", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with ac.open_checkpoint(tmp_path / "m.gguf") as model:
        assert model.metadata["general.architecture"] == "llama"
        for name, expected in want.items():
            same_bits(model[name].decode(), expected, name)
        same_bits(model["norm"].decode(), np.arange(7, dtype=np.float32), "norm")
