"""bitsandbytes end to end: what we write is what transformers loads with it, and what transformers saves we read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
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
    predicted = logits(tmp_path / "theirs")
    same_bits(logits(source, options(kind)), predicted, "logits of a model quantised while it is loaded")
    if kind.endswith("double"):  # their mean depends on threads, so ours is another
        ac.convert(source, tmp_path / "own", "bitsandbytes", scheme=codec)
        away = np.abs(logits(tmp_path / "own").astype(np.float32) - predicted.astype(np.float32))
        assert away.max() < 0.05
    # What they wrote passes through whole; what we make of the dense model is that file too.
    for origin in ("theirs", *(() if kind.endswith("double") else ("dense",))):
        folder = tmp_path / f"from-{origin}"
        if origin == "theirs":
            ac.convert(tmp_path / "theirs", folder, "bitsandbytes")
        else:
            ac.convert(source, folder, "bitsandbytes", scheme=codec)
        files = [where / "model.safetensors" for where in (folder, tmp_path / "theirs")]
        assert header(files[0]) == header(files[1]), origin
        assert files[0].read_bytes() == files[1].read_bytes(), origin
        configs = [json.loads((file.parent / "config.json").read_text()) for file in files]
        assert configs[0] == configs[1], origin
        same_bits(logits(folder), predicted, f"logits of {folder.name}")
