"""Checkpoints of bitsandbytes: its own state dicts read and written bit for bit, damaged and hostile ones refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec.formats.bitsandbytes.layout import NESTED
from arraycodec.formats.bitsandbytes.target import Bitsandbytes
from arraycodec.formats.target import Decision
from arraycodec.primitives import codebooks
from arraycodec.spec import ArraySpec
from arraycodec_conformance.compare import same_bits

torch = pytest.importorskip("torch")
bnb = pytest.importorskip("bitsandbytes")

from bitsandbytes.nn import parametrize  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from arraycodec_torch.arrays import to_numpy  # noqa: E402

State = dict[str, Any]
Arrays = dict[str, np.ndarray]
DTYPES = ("float32", "bfloat16", "float16")
NF4_STATE = "a.weight.quant_state.bitsandbytes__nf4"


def blocks_of(
    name: str, quant_type: str = "nf4", shape: tuple[int, ...] = (32, 64), dtype: str = "float32", block_size: int = 64,
    nested: bool = False, storage: str = "uint8",
) -> tuple[State, Any]:  # fmt: skip
    """What bitsandbytes saves of a weight of normal numbers, and the weight as it decodes it."""
    torch.manual_seed(5)
    weight = torch.randn(shape).to(getattr(torch, dtype))
    packed, state = bnb.functional.quantize_4bit(
        weight, blocksize=block_size, compress_statistics=nested, quant_type=quant_type,
        quant_storage=getattr(torch, storage),
    )  # fmt: skip
    stats = {f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
    return {name: packed, **stats}, bnb.functional.dequantize_4bit(packed, state)


def rows_of(module: str, bias: str | None = None) -> State:
    """What a Linear8bitLt saves."""
    torch.manual_seed(6)
    own = torch.nn.Linear(64, 32, bias=bias is not None)
    layer = bnb.nn.Linear8bitLt(64, 32, bias=bias is not None, has_fp16_weights=False)
    layer.load_state_dict(own.state_dict())
    layer = layer.to("cpu")
    state = {f"{module}.{key}": tensor for key, tensor in layer.state_dict().items()}
    if bias:
        state[f"{module}.bias"] = state[f"{module}.bias"].to(getattr(torch, bias))
    return state


def saved(folder: Path, state: State, config: Any = None) -> Path:
    """A checkpoint of these tensors, as transformers saves it."""
    save_file(
        {key: tensor.contiguous() for key, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def rewritten(folder: Path, target: Bitsandbytes, path: Path) -> bytes:
    """The file that the target makes of the planes in a checkpoint, from what it says of headers first."""
    specs: dict[str, ArraySpec] = {}
    arrays: Arrays = {}
    with ac.open_checkpoint(folder) as model:
        for name, tensor in model.items():
            if (codec := target.decide(name, tensor.spec, tensor.codec).codec) is None:
                specs[name], arrays[name] = tensor.spec, tensor.decode()
            else:
                specs |= target.layout(name, tensor.spec, codec, tensor.encoded)
                arrays |= target.arrays(name, tensor.encoded())
    header = safetensors.make_header(specs, target.metadata, align=target.align)
    with safetensors.SafetensorsWriter(path, header) as writer:
        for name in header.tensors:
            writer.add(name, arrays[name])
    return path.read_bytes()


# -- both ways


@pytest.mark.parametrize("storage", ["uint8", "bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_4_bit_files(quant_type: str, nested: bool, dtype: str, storage: str, tmp_path: Path) -> None:
    """The weight that bitsandbytes decodes, and from its planes the very file again."""
    state, weight = blocks_of("a.weight", quant_type, dtype=dtype, nested=nested, storage=storage)
    state["a.bias"] = torch.randn(32)
    folder = saved(tmp_path, state)
    with ac.open_checkpoint(folder) as model:
        assert (model.format, set(model)) == ("bitsandbytes", {"a.weight", "a.bias"})
        outer = ac.Codebook(quant_type)
        assert model["a.weight"].codec == (ac.Then(outer, absmax=NESTED) if nested else outer)
        same_bits(model["a.weight"].decode(), to_numpy(weight), "decoded")
        same_bits(model["a.weight"][3:9], to_numpy(weight)[3:9], "rows")
        assert model["a.weight"].verify() == 0
    again = rewritten(folder, Bitsandbytes.of({}, storage=storage), tmp_path / "again")
    assert again == (folder / "model.safetensors").read_bytes()


# bitsandbytes decodes these rightly on every CPU: rows are whole blocks, or not of 16 k elements.
SIZES = [
    (32, (3, 32, 64)),
    *((size, shape) for size in (32, 128, 1024) for shape in ((4, 4096), (6, 10), (2, 3, 2, 6))),
]
SLOW = [(size, shape) for size in (256, 512, 2048, 4096) for shape in ((4, 4096), (6, 10))]  # torch compiles for 2048


@pytest.mark.parametrize(
    ("block_size", "shape"), [*SIZES, *(pytest.param(*own, marks=pytest.mark.level("full")) for own in SLOW)]
)
def test_block_sizes_and_shapes(block_size: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    for nested in (False, True):
        state, weight = blocks_of("m.experts.up", "nf4", shape, "bfloat16", block_size, nested)
        with ac.open_checkpoint(saved(tmp_path, state)) as model:
            assert list(model) == ["m.experts.up"]
            same_bits(model["m.experts.up"].decode(), to_numpy(weight), f"nested {nested}")
        again = rewritten(tmp_path, Bitsandbytes.of({}), tmp_path / "again")
        assert again == (tmp_path / "model.safetensors").read_bytes()


def test_odd_sizes(tmp_path: Path) -> None:
    """An odd number of elements has half a byte of padding, and a flat weight is one."""
    torch.manual_seed(1)
    weight = torch.randn(5, 7)
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=32, quant_type="nf4")
    stats = {f"w.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
    for flat in (False, True):
        with ac.open_checkpoint(saved(tmp_path, {"w": packed.reshape(-1) if flat else packed, **stats})) as model:
            scale = np.repeat(to_numpy(state.absmax), 32)[:35].reshape(5, 7)
            codes = np.stack([to_numpy(packed) >> 4, to_numpy(packed) & 15], -1).reshape(-1)[:35].reshape(5, 7)
            same_bits(model["w"].decode(), codebooks.table("nf4").values[codes] * scale, f"flat {flat}")


def test_modules_of_bitsandbytes(tmp_path: Path) -> None:
    """Its own Linear4bit, the parameter of an experts' module, and Linear8bitLt, beside plain tensors."""

    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Parameter(torch.randn(4, 16, 64))

    torch.manual_seed(2)
    model = torch.nn.ModuleDict({"up": torch.nn.Linear(64, 32), "experts": Experts(), "norm": torch.nn.LayerNorm(64)})
    linear = bnb.nn.Linear4bit(64, 32, quant_type="fp4", compress_statistics=True)
    linear.load_state_dict(model["up"].state_dict())
    linear.weight.data = model["up"].weight.data
    model["up"] = linear.to("cpu")
    parametrize.replace_parameter_4bit(model["experts"], "up", True, "nf4", 64)
    state = model.state_dict()
    with ac.open_checkpoint(saved(tmp_path, state)) as opened:
        assert set(opened) == {"up.weight", "up.bias", "experts.up", "norm.weight", "norm.bias"}
        decoded = bnb.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
        same_bits(opened["up.weight"].decode(), to_numpy(decoded), "Linear4bit")
        same_bits(opened["experts.up"].decode(), to_numpy(model["experts"].up), "parameter")
    again = rewritten(tmp_path, Bitsandbytes.of({}), tmp_path / "again")
    assert again == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("config", "bias", "dtype"),
    [
        (None, None, "float16"),
        (None, "bfloat16", "bfloat16"),
        ({"dtype": "bfloat16"}, "float16", "bfloat16"),
        ({"torch_dtype": "float32"}, None, "float32"),
    ],
)
def test_int8_files(config: Any, bias: str | None, dtype: str, tmp_path: Path) -> None:
    state = rows_of("a", bias)
    with ac.open_checkpoint(saved(tmp_path, state, config)) as model:
        tensor = model["a.weight"]
        assert (model.format, tensor.codec, tensor.dtype) == ("bitsandbytes", ac.LLMInt8(), dtype)
        exact = bnb.functional.int8_vectorwise_dequant(state["a.weight"], state["a.SCB"])
        same_bits(tensor.decode(), to_numpy(exact.to(getattr(torch, dtype))), "decoded")
    again = rewritten(tmp_path, Bitsandbytes.of({}), tmp_path / "again")
    assert again == (tmp_path / "model.safetensors").read_bytes()


def test_int8_of_our_own_is_what_bitsandbytes_makes() -> None:
    """It casts to float16 first, and so does the target."""
    torch.manual_seed(3)
    target = Bitsandbytes.of({"Linear": "llm_int8"})
    for dtype in DTYPES:
        weight = (torch.randn(64, 256) * 0.02).to(getattr(torch, dtype))
        decision = target.decide("a.weight", ArraySpec((64, 256), dtype), None)
        assert decision == Decision(ac.LLMInt8(), "Linear", "float16")
        got = target.arrays("a.weight", ac.encode(to_numpy(weight.half()), ac.LLMInt8()))
        module = bnb.nn.Linear8bitLt(256, 64, bias=False, has_fp16_weights=False)
        module.weight = bnb.nn.Int8Params(weight, has_fp16_weights=False, requires_grad=False)
        want = module.to("cpu").state_dict()
        assert {f"a.{key}" for key in want} == set(got)
        for key, tensor in want.items():
            same_bits(got[f"a.{key}"], to_numpy(tensor), f"{dtype} {key}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "codec",
    [
        ac.Codebook("nf4"),
        ac.Codebook("fp4", flavour="bnb-cpu"),
        ac.Then(ac.Codebook("nf4"), absmax=ac.Codebook("dynamic", 256, "bnb-cpu", True)),
    ],
    ids=["nf4", "fp4", "nf4-double"],
)
def test_4_bits_of_our_own_are_what_bitsandbytes_makes(codec: ac.Codec, dtype: str) -> None:
    """Nested statistics given its offset: its mean depends on threads."""
    nested = isinstance(codec, ac.Then)
    table = "nf4" if nested else codec.table  # type: ignore[attr-defined]
    torch.manual_seed(5)
    weight = torch.randn(128, 256).to(getattr(torch, dtype))
    want, _ = blocks_of("a.weight", table, (128, 256), dtype, 64, nested)
    given = {}
    if nested:
        facts = json.loads(to_numpy(want[NF4_STATE]).tobytes())
        given = {"absmax.offset": np.array(facts["nested_offset"], np.float32)}
    target = Bitsandbytes.of({"Linear": codec})
    got = target.arrays("a.weight", ac.encode(to_numpy(weight), codec, given=given))
    assert set(got) == set(want)
    for key, tensor in want.items():
        same_bits(got[key], to_numpy(tensor), key)


def test_other_tables_of_statistics_are_part_of_the_weight(tmp_path: Path) -> None:
    """bitsandbytes decodes with the nested_quant_map of the file, which another machine may have rounded otherwise."""
    state, _ = blocks_of("a.weight", nested=True)
    table = state["a.weight.nested_quant_map"].clone()
    table[40:200] = torch.nextafter(table[40:200], torch.tensor(1.0)).where(table[40:200] != 0, 0.0)
    linear = bnb.functional.create_linear_map(signed=True)
    for values, codec in ((table, "user8"), (linear, "linear")):
        own = state | {"a.weight.nested_quant_map": values}
        stats = {key.removeprefix("a.weight."): tensor for key, tensor in own.items() if key != "a.weight"}
        params = bnb.nn.Params4bit.from_prequantized(own["a.weight"], stats, device="cpu")
        weight = bnb.functional.dequantize_4bit(params.data, params.quant_state)
        with ac.open_checkpoint(saved(tmp_path, own)) as model:
            assert model["a.weight"].codec == ac.Then(ac.Codebook(), absmax=ac.Codebook(codec, 256, offset=True))
            same_bits(model["a.weight"].decode(), to_numpy(weight), codec)
        again = rewritten(tmp_path, Bitsandbytes.of({}), tmp_path / "again")
        assert again == (tmp_path / "model.safetensors").read_bytes()


# -- damage that bitsandbytes does itself


def packed_anew(nested: bool, dtype: str, inverse: bool) -> State:
    """What is saved of a weight that went through the packing for AVX512_BF16, and in new versions back."""
    torch.manual_seed(7)
    weight = torch.randn(64, 128).to(getattr(torch, dtype))
    packed, state = bnb.functional.quantize_4bit(weight, compress_statistics=nested, quant_type="nf4")
    packed, state = bnb.functional._convert_weight_packed_for_cpu(packed, state)
    if inverse:
        packed, state = bnb.functional._convert_weight_packed_for_cpu_inverse(packed, state)
    return {"a.weight": packed, **{f"a.weight.{part}": t for part, t in state.as_dict(packed=True).items()}}


@pytest.mark.parametrize(
    ("nested", "dtype", "inverse", "told"),
    [
        (False, "float32", True, r"absmax must be float32 with one axis, got bfloat16\[2,64\]"),
        (False, "bfloat16", True, r"absmax must be float32 with one axis, got bfloat16"),
        (False, "float16", False, "weight must have one column"),
        (True, "bfloat16", False, "weight must have one column"),
        (True, "bfloat16", True, "nested_dtype must be float32, got 'bfloat16'"),
        (True, "float16", True, "nested_dtype must be float32, got 'float16'"),
    ],
)
def test_weights_packed_anew_are_named(nested: bool, dtype: str, inverse: bool, told: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, packed_anew(nested, dtype, inverse))
    told = told.replace("[2,64]", "[2, 64]").replace(r"\[2,64\]", r"\[2, 64\]")
    with pytest.raises(ac.CorruptError, match=f"model.safetensors: tensor 'a.weight': {told}.*AVX512_BF16 saves such"):
        ac.open_checkpoint(folder)


def test_what_its_own_forward_saves_is_named(tmp_path: Path) -> None:
    """The same by the real thing, where this CPU has the instructions."""
    if not bnb.functional.has_avx512bf16():
        pytest.skip("this CPU has no AVX512_BF16, so bitsandbytes packs nothing anew")
    layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", compress_statistics=False).to("cpu").eval()
    before = dict(layer.state_dict())
    with torch.no_grad():
        layer(torch.randn(2, 128, dtype=torch.bfloat16))
    ac.open_checkpoint(saved(tmp_path, before)).close()
    with pytest.raises(ac.CorruptError, match=r"tensor 'weight'.*AVX512_BF16 saves such"):
        ac.open_checkpoint(saved(tmp_path, dict(layer.state_dict())))


def test_nested_float32_weights_packed_anew_cannot_be_told(tmp_path: Path) -> None:
    """What the page says cannot be found: another weight, as good a file."""
    with ac.open_checkpoint(saved(tmp_path, packed_anew(True, "float32", True))) as model:
        assert np.isfinite(model["a.weight"].decode()).all()


# -- hostile and truncated states


def facts(**change: Any) -> np.ndarray:
    own = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [32, 64]} | change
    return np.frombuffer(json.dumps({key: value for key, value in own.items() if value != "gone"}).encode(), np.uint8)


def good(codec: ac.Codec | None = None) -> Arrays:
    """A sound state of ours, as bitsandbytes has it."""
    x = np.random.default_rng(0).standard_normal((32, 64), np.float32)
    return Bitsandbytes.of({}).arrays("a.weight", ac.encode(x, codec or ac.Codebook()))


def nested() -> Arrays:
    return good(ac.codec("nf4-double"))


def int8() -> Arrays:
    return good(ac.LLMInt8())


W = "a.weight"
ROWS: list[tuple[Callable[[], Arrays], dict[str, np.ndarray | None], str]] = [
    (good, {NF4_STATE: facts(shape=[32, 65])}, r"weight must be uint8 with 1040 elements, \[1040, 1\], got"),
    (good, {NF4_STATE: facts(shape=[2**30, 2**30])}, "must not multiply to more than 2"),
    (good, {NF4_STATE: facts(shape=[-1, 64])}, "an axis must be an integer in"),
    (good, {NF4_STATE: facts(shape=[True, 64])}, "an axis must be an integer in"),
    (good, {NF4_STATE: facts(shape=None)}, "shape may not be None"),
    (good, {NF4_STATE: facts(shape="gone")}, "must hold quant_type, blocksize, dtype, shape, got"),
    (good, {NF4_STATE: facts(blocksize=128)}, r"absmax must be float32 with 16 elements, \[16\], got float32\[32\]"),
    (good, {NF4_STATE: facts(blocksize=0)}, "block_size must be an integer >= 1"),
    (good, {NF4_STATE: facts(blocksize=True)}, "blocksize may not be True"),
    (good, {NF4_STATE: facts(blocksize=64.0)}, "blocksize may not be 64.0"),
    (good, {NF4_STATE: facts(dtype="float64")}, "dtype must be one of float32, bfloat16, float16, got float64"),
    (good, {NF4_STATE: facts(dtype="float12")}, "dtype must be one of"),
    (good, {NF4_STATE: facts(quant_type="fp4")}, "quant_type must be nf4 or fp4, and that of the name, got 'fp4'"),
    (good, {NF4_STATE: facts(extra=1)}, "must hold quant_type, blocksize, dtype, shape, got .*extra"),
    (good, {NF4_STATE: facts(nested_blocksize=256)}, "must hold .*nested_offset, got"),
    (good, {NF4_STATE: np.frombuffer(b"[]", np.uint8)}, "must be a JSON object"),
    (good, {NF4_STATE: np.frombuffer(b"{", np.uint8)}, "not JSON"),
    (good, {NF4_STATE: np.zeros(1 << 17, np.uint8)}, "at most 65536 bytes of JSON"),
    (good, {NF4_STATE: np.zeros((4, 4), np.uint8)}, "must be uint8 with one axis"),
    (good, {NF4_STATE: None}, r"a.weight.absmax': is no part of a weight that has a quant_state"),
    (good, {f"{W}.absmax": None}, "absmax is missing"),
    (good, {f"{W}.quant_map": None}, "quant_map is missing"),
    (good, {W: None}, "belongs to 'a.weight', which is missing"),
    (good, {f"{W}.more": np.zeros(3)}, "a.weight.more': is no part"),
    (good, {f"{W}.quant_state.bitsandbytes__fp4": facts(quant_type="fp4")}, "must have one quant_state, got"),
    (good, {f"{W}.quant_map": np.zeros(16, np.float32)}, "quant_map must be the table of nf4"),
    (good, {f"{W}.quant_map": np.zeros(4096, np.float32)}, "quant_map must be the table of nf4"),
    (good, {f"{W}.absmax": np.ones(32, np.float16)}, r"absmax must be float32 .* got float16\[32\]"),
    (good, {W: np.zeros((1, 1024), np.uint8)}, r"weight must be uint8 with 1024 elements, \[1024, 1\], got"),
    (good, {W: np.zeros((1024, 1), np.int16)}, "quant_storage must be one of .*got 'int16'"),
    (good, {"b.weight": np.zeros((9, 1), np.uint8)}, "'b.weight': looks like packed codes, but has no quant_state"),
    (good, {"b.weight": np.zeros((9, 9), np.int8)}, "'b.weight': looks like codes of int8 rows, but has no SCB"),
    (good, {"a.SCB": np.ones(32, np.float32)}, "must have a quant_state or SCB, not both"),
    (nested, {f"{W}.nested_absmax": None}, "nested_absmax is missing"),
    (nested, {f"{W}.nested_quant_map": None}, "nested_quant_map is missing"),
    (nested, {f"{W}.nested_quant_map": np.zeros(256, np.float32)}, "codebook must be finite and strictly rising"),
    (nested, {f"{W}.nested_quant_map": np.zeros(16, np.float32)}, r"nested_quant_map must be float32\[256\]"),
    (nested, {NF4_STATE: facts()}, "must hold .*nested_offset, got"),
    (nested, {NF4_STATE: facts(nested_blocksize=256, nested_dtype="float32", nested_offset="1")}, "nested_offset may"),
    (nested, {NF4_STATE: np.frombuffer(nested()[NF4_STATE].tobytes().replace(b"offset\": ", b"offset\": NaN, \"x\": "),
                                       np.uint8)}, "numbers must be finite, got NaN"),
    (nested, {f"{W}.nested_absmax": np.ones(2, np.float32)}, r"nested_absmax must be float32 with 1 elements"),
    (int8, {"a.SCB": None}, "'a.weight': looks like codes of int8 rows, but has no SCB"),
    (int8, {"a.SCB": None, W: None}, "'a.weight_format': is no part of a weight that has a quant_state or SCB"),
    (int8, {"a.SCB": None, "a.weight_format": None, "b.SCB": np.ones(1, np.float32)}, "belongs to 'b.weight'"),
    (int8, {"a.SCB": np.ones((1, 32), np.float32)}, "weight and SCB must have two axes and one"),
    (int8, {"a.SCB": np.ones(31, np.float32)}, r"SCB must be float32\[32\], got float32\[31\]"),
    (int8, {"a.SCB": np.ones(32, np.float16)}, r"SCB must be float32\[32\], got float16\[32\]"),
    (int8, {W: np.zeros((32, 64), np.uint8)}, r"weight must be int8\[32, 64\], got uint8\[32, 64\]"),
    (int8, {"a.weight_format": np.array(1, np.uint8)}, r"weight_format must be 0 \(row\), got 1 \(col32\)"),
    (int8, {"a.weight_format": np.array(3, np.uint8)}, r"got 3 \(col_ampere\)"),
    (int8, {"a.weight_format": np.zeros(2, np.uint8)}, r"got shape \[2\]"),
    (int8, {"a.weight_format": np.array(np.nan, np.float16)}, r"must be 0 \(row\), got nan"),
    (nested, {NF4_STATE: facts(nested_blocksize=256, nested_dtype="float32", nested_offset=1e39)}, "a float32 number"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "change", "told"), ROWS, ids=lambda value: value[:24] if isinstance(value, str) else ""
)
def test_hostile_states(make: Callable[[], Arrays], change: dict[str, Any], told: str, tmp_path: Path) -> None:
    """A sound file with one change: an error that begins with the tensor, never a weight."""
    arrays = {name: array for name, array in (make() | change).items() if array is not None}
    safetensors.save(make(), tmp_path / "model.safetensors")
    ac.open_checkpoint(tmp_path).close()
    safetensors.save(arrays, tmp_path / "model.safetensors")
    with pytest.raises(ac.FormatError, match=told) as caught:
        ac.open_checkpoint(tmp_path, config={"quant_method": "bitsandbytes"})
    assert str(caught.value).startswith(f"{tmp_path / 'model.safetensors'}: tensor ")


@pytest.mark.parametrize(("make", "gone"), [(good, NF4_STATE), (int8, "a.SCB")])
def test_a_truncated_state_is_no_plain_tensor(make: Callable[[], Arrays], gone: str, tmp_path: Path) -> None:
    """Even where no configuration says that bitsandbytes wrote it."""
    safetensors.save({name: array for name, array in make().items() if name != gone}, tmp_path / "model.safetensors")
    with pytest.raises(ac.FormatError, match=r"tensor 'a\.weight"):
        ac.open_checkpoint(tmp_path)


def test_tables_that_differ_in_rounding_are_the_same(tmp_path: Path) -> None:
    """bitsandbytes decodes nf4 with its own table, and takes a file's for it within 1e-6."""
    arrays = good()
    safetensors.save(arrays, tmp_path / "model.safetensors")
    want = ac.load_file(tmp_path / "model.safetensors")[f"{W}.quant_map"]
    safetensors.save(arrays | {f"{W}.quant_map": np.nextafter(want, np.float32(2))}, tmp_path / "model.safetensors")
    with ac.open_checkpoint(tmp_path) as model:
        assert model[W].codec == ac.Codebook("nf4")


@pytest.mark.parametrize(
    ("make", "tensor", "plane"),
    [
        (good, f"{W}.absmax", "absmax"),
        (nested, f"{W}.nested_absmax", r"absmax\.absmax"),
        (int8, "a.SCB", "scales"),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1])
def test_verify_finds_statistics_that_cannot_be(
    make: Callable[[], Arrays], tensor: str, plane: str, bad: float, tmp_path: Path
) -> None:
    arrays = make()
    arrays[tensor] = arrays[tensor].copy()
    arrays[tensor].reshape(-1)[-1] = bad
    safetensors.save(arrays, tmp_path / "model.safetensors")
    with ac.open_checkpoint(tmp_path, config={"quant_method": "bitsandbytes"}) as model:
        model[W].decode()
        with pytest.raises(ac.CorruptError, match=f"weight '{W}': {plane} must be finite and >= 0, got"):
            model[W].verify()
