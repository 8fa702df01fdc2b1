"""Train `sample.safetensors`, the small language model whose weights the tests and the tutorials encode.

Random numbers do not compress, round or prune as trained weights do, so here is a small trained checkpoint: a
byte-level transformer with the architecture and tensor names of Llama, 1.4 million parameters in bfloat16. It
was trained on text that comes with every CPython, the top-level modules of the standard library, so its
held-out loss can be measured again anywhere, before and after its weights pass through a codec.

    python -m arraycodec.data.train_sample              train, write sample.safetensors, print its figures
    python -m arraycodec.data.train_sample --evaluate   print the figures of the file that is there

The figures are the unigram entropy of the held-out bytes, the loss on the same bytes of the bfloat16 weights
read back from the file (both in nats per byte), and the ratio of the two. The exit status is 1 where that
exceeds `RATIO_LIMIT`. Another version of CPython has other sources, hence slightly other figures.

Nothing else in `arraycodec` imports this module. A test calls `held_out_loss(tensors, held_out_windows())`.
"""

import argparse
import math
import sys
import sysconfig
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from platform import python_version

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

SAMPLE = Path(__file__).with_name("sample.safetensors")
RATIO_LIMIT = 0.60

# The model. 192 and 384 are multiples of 64 and not powers of two; key and value projections have 64 rows.
VOCAB, HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 256, 192, 384, 4, 6, 2
HEAD_DIM, ROPE_THETA, NORM_EPS = HIDDEN // HEADS, 10_000.0, 1e-5

# The training run.
SEED, CONTEXT, BATCH, STEPS, WARMUP = 20, 256, 8, 2400, 100
PEAK_LR, FINAL_LR, WEIGHT_DECAY, BETAS, CLIP = 3e-3, 1e-4, 0.1, (0.9, 0.98), 1.0
HELD_OUT_ONE_IN, HELD_OUT_WINDOWS = 16, 512


def read_corpus(*, held_out: bool) -> Tensor:
    """The bytes of the standard library's top-level modules, on one side of the split, in order of file name.

    A file is held out by the CRC-32 of its name, so a file stays on its side in every version of CPython.
    `_sysconfigdata*.py` is left out: it describes the machine that built the interpreter.
    """
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda file: file.name)
    chosen = [
        file.read_bytes().replace(b"\r\n", b"\n")
        for file in files
        if not file.name.startswith("_sysconfigdata")
        and (zlib.crc32(file.name.encode()) % HELD_OUT_ONE_IN == 0) == held_out
    ]
    return torch.frombuffer(bytearray(b"".join(chosen)), dtype=torch.uint8)


def held_out_windows() -> Tensor:
    """`[HELD_OUT_WINDOWS, CONTEXT + 1]` bytes, evenly spread; the last CONTEXT of each are the targets."""
    windows = read_corpus(held_out=True).unfold(0, CONTEXT + 1, CONTEXT)
    return windows[torch.linspace(0, len(windows) - 1, HELD_OUT_WINDOWS).long()].long()


def shapes() -> dict[str, tuple[int, ...]]:
    """The name and the shape of every tensor of the model."""
    layer = {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }
    layers = {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    ends = {"model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (VOCAB, HIDDEN)}
    return {f"{name}.weight": shape for name, shape in {**layers, **ends}.items()}


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding of `[..., positions, HEAD_DIM]`, the halves paired as Llama pairs them."""
    frequencies = ROPE_THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = torch.arange(x.shape[-2])[:, None] * frequencies
    (cos, sin), (first, second) = (angles.cos(), angles.sin()), x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def logits(weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """`[batch, positions, VOCAB]` logits of the byte after each of `tokens`; the weights are float32."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (HIDDEN,), weights[f"{name}.weight"], NORM_EPS)

    x = F.embedding(tokens, weights["model.embed_tokens.weight"])
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        y = norm(f"{layer}.input_layernorm", x)
        rows = (linear(f"{layer}.self_attn.{role}_proj", y) for role in "qkv")
        q, k, v = (row.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for row in rows)
        k, v = (shared.repeat_interleave(HEADS // KV_HEADS, dim=1) for shared in (rotate(k), v))
        y = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
        x = x + linear(f"{layer}.self_attn.o_proj", y.transpose(1, 2).flatten(2))
        y = norm(f"{layer}.post_attention_layernorm", x)
        y = F.silu(linear(f"{layer}.mlp.gate_proj", y)) * linear(f"{layer}.mlp.up_proj", y)
        x = x + linear(f"{layer}.mlp.down_proj", y)
    return linear("lm_head", norm("model.norm", x))


def loss_of(weights: Mapping[str, Tensor], windows: Tensor) -> Tensor:
    """Mean cross-entropy, in nats per byte, of each window's last CONTEXT bytes."""
    return F.cross_entropy(logits(weights, windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


@torch.inference_mode()
def held_out_loss(tensors: Mapping[str, Tensor], windows: Tensor) -> float:
    """`loss_of` over many windows, in float32 whatever the dtype of the tensors."""
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    return sum(loss_of(weights, batch).item() * len(batch) for batch in windows.split(BATCH)) / len(windows)


def unigram_entropy(windows: Tensor) -> float:
    """Entropy, in nats per byte, of the targets' byte frequencies: the loss of the best constant guess."""
    counts = windows[:, 1:].flatten().bincount().double()
    return torch.special.entr(counts / counts.sum()).sum().item()


def train(steps: int) -> dict[str, Tensor]:
    """AdamW with weight decay on the matrices, a linear warm-up and a cosine schedule, from a fixed seed."""
    generator = torch.Generator().manual_seed(SEED)
    text = read_corpus(held_out=False)
    weights: dict[str, Tensor] = {}
    for name, shape in shapes().items():
        std = 0.02 / math.sqrt(2 * LAYERS) if "o_proj" in name or "down_proj" in name else 0.02
        start = torch.randn(shape, generator=generator) * std if len(shape) == 2 else torch.ones(shape)
        weights[name] = start.requires_grad_()
    matrices, gains = ([w for w in weights.values() if w.ndim == ndim] for ndim in (2, 1))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=BETAS)
    started = time.monotonic()
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = min((step + 1) / WARMUP, 1) * (FINAL_LR + (PEAK_LR - FINAL_LR) * cosine)
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
        loss = loss_of(weights, text[starts + torch.arange(CONTEXT + 1)].long())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - started:6.0f} s", flush=True)
    return {name: weight.detach() for name, weight in weights.items()}


def figures(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What the script prints and the metadata of the file records."""
    windows = held_out_windows()
    entropy, loss = unigram_entropy(windows), held_out_loss(tensors, windows)
    return {
        "parameters": f"{sum(tensor.numel() for tensor in tensors.values())}",
        "held_out_bytes": f"{windows[:, 1:].numel()}",
        "unigram_entropy_nats_per_byte": f"{entropy:.4f}",
        "held_out_loss_nats_per_byte": f"{loss:.4f}",
        "ratio": f"{loss / entropy:.4f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Train or evaluate the sample checkpoint.")
    parser.add_argument("--output", type=Path, default=SAMPLE, help="the file to write, or to evaluate")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="print the figures of the file; do not train")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.evaluate:
        tensors = {name: weight.bfloat16() for name, weight in train(options.steps).items()}
        metadata = {
            "format": "pt",
            "license": "Apache-2.0",
            "provenance": f"train_sample.py, on the standard library of CPython {python_version()} (PSF-2.0)",
            "training": f"{options.steps} steps of {BATCH} x {CONTEXT} bytes, torch {torch.__version__}",
            "architecture": f"Llama: heads {HEADS}, kv heads {KV_HEADS}, theta {ROPE_THETA}, eps {NORM_EPS}",
        }
        save_file(tensors, options.output, metadata=metadata | figures(tensors))
    measured = figures(load_file(options.output))
    print("\n".join(f"{name:30} {value}" for name, value in measured.items()))
    return int(float(measured["ratio"]) > RATIO_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
