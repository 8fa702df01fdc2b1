"""bitsandbytes end to end: what we write is what transformers loads with it, and what transformers saves we read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec.formats.bitsandbytes.target import Bitsandbytes
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from tests.codecs.peers import needs
from tests.formats.compressed_tensors.support import PROMPT, dense, header

pytestmark = [pytest.mark.level("full"), needs("transformers"), needs("bitsandbytes"), needs("accelerate")]

FP4 = ac.Codebook("fp4", flavour="bnb-cpu")
NESTED = ac.Codebook("dynamic", 256, "bnb-cpu", True)


def options(kind: str, dtype: str = "bfloat16") -> Any:
    """The quantization_config of transformers for a scheme of ours."""
    import torch
    from transformers import BitsAndBytesConfig

    if kind == "llm_int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind[:3], bnb_4bit_use_double_quant=kind.endswith("double"),
        bnb_4bit_compute_dtype=getattr(torch, dtype), llm_int8_skip_modules=["lm_head"],
    )  # fmt: skip


def logits(folder: Path, config: Any = None) -> np.ndarray[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    import arraycodec_torch

    more = {} if config is None else {"quantization_config": config}
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **more).eval()
    with torch.no_grad():
        return arraycodec_torch.to_numpy(model(torch.tensor([PROMPT])).logits.contiguous())


def written(source: Path, folder: Path, target: Bitsandbytes, offsets: dict[str, np.ndarray]) -> Path:
    """A dense checkpoint in the target's format."""
    found = ac.load_file(source / "model.safetensors")
    decisions = {name: target.decide(name, spec_of(array), None) for name, array in found.items()}
    specs: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, array in found.items():
        decision = decisions[name]
        if decision.codec is None:
            specs[name], arrays[name] = spec_of(array), array
            continue
        x = array.astype(numpy_dtype(decision.dtype)) if decision.dtype else array
        given = {"absmax.offset": offsets[name]} if name in offsets else {}
        enc = ac.encode(x, decision.codec, given=given)
        specs |= target.layout(name, enc.spec, enc.codec, lambda enc=enc: enc)
        arrays |= target.arrays(name, enc)
    folder.mkdir()
    made = safetensors.make_header(specs, target.metadata, align=target.align)
    with safetensors.SafetensorsWriter(folder / "model.safetensors", made) as writer:
        for name in made.tensors:
            writer.add(name, arrays[name])
    config = target.config(json.loads((source / "config.json").read_text()), decisions)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("dense") / "llama")


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("nf4", ac.codec("nf4")), ("fp4", FP4), ("nf4-double", ac.Then(ac.Codebook("nf4"), absmax=NESTED)),
     ("fp4-double", ac.Then(FP4, absmax=NESTED)), ("llm_int8", ac.LLMInt8())],
    ids=["nf4", "fp4", "nf4-double", "fp4-double", "llm_int8"],
)  # fmt: skip
def test_a_llama_both_ways(kind: str, codec: ac.Codec, source: Path, tmp_path: Path) -> None:
    """Theirs read by us; ours the same file, tensor for tensor, with the same config; and the same predictions."""
    from bitsandbytes import functional as F
    from transformers import AutoModelForCausalLM

    import arraycodec_torch

    model = AutoModelForCausalLM.from_pretrained(source, device_map="cpu", quantization_config=options(kind))
    model.save_pretrained(tmp_path / "theirs")
    offsets: dict[str, np.ndarray] = {}
    with ac.open_checkpoint(tmp_path / "theirs") as theirs:
        quantised = [name for name, tensor in theirs.items() if tensor.codec is not None]
        assert (theirs.format, len(quantised)) == ("bitsandbytes", 14)
        for name in quantised:
            weight = model.get_parameter(name)
            if kind == "llm_int8":
                want = F.int8_vectorwise_dequant(weight.data, weight.SCB).bfloat16()
            else:
                want = F.dequantize_4bit(weight.data, weight.quant_state)
            want = arraycodec_torch.to_numpy(want)
            want = np.where(want == 0, want.dtype.type(0), want)  # -0 where a nested scale is negative
            same_bits(theirs[name].decode(), want, name)
            planes = theirs[name].encoded().planes
            offsets |= {name: planes["absmax.offset"]} if "absmax.offset" in planes else {}
    ours = written(source, tmp_path / "ours", Bitsandbytes.of({"Linear": codec}), offsets)
    files = [folder / "model.safetensors" for folder in (ours, tmp_path / "theirs")]
    assert header(files[0]) == header(files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
    configs = [json.loads((file.parent / "config.json").read_text())["quantization_config"] for file in files]
    assert configs[0] == configs[1]
    got, want = logits(ours), logits(tmp_path / "theirs")
    assert np.isfinite(got.astype(np.float32)).all()
    same_bits(got, want, "logits")
    same_bits(got, logits(source, options(kind)), "logits of a model quantised while it is loaded")
    if offsets:  # with a mean of our own, which does not depend on threads
        own = written(source, tmp_path / "own", Bitsandbytes.of({"Linear": codec}), {})
        assert np.abs(logits(own).astype(np.float32) - want.astype(np.float32)).max() < 0.05
