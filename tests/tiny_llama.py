"""A Llama small enough for tests, in plain torch, with the names of layers that real ones have."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu


class RMSNorm(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(n) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Attention(nn.Module):
    def __init__(self, n: int, heads: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.head_dim = n // heads
        self.q_proj = nn.Linear(n, n, bias)
        self.k_proj, self.v_proj = (nn.Linear(n, groups * self.head_dim, bias) for _ in range(2))
        self.o_proj = nn.Linear(n, n, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** -torch.linspace(0, 1, self.head_dim // 2)
        cos, sin = (f(angles).repeat(1, 2).to(x.dtype) for f in (torch.cos, torch.sin))
        q, k = (
            t * cos + torch.cat([-t[..., self.head_dim // 2 :], t[..., : self.head_dim // 2]], -1) * sin for t in (q, k)
        )
        return self.o_proj(
            scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        )


class MLP(nn.Module):
    def __init__(self, n: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(n, inner, False) for _ in range(2))
        self.down_proj = nn.Linear(inner, n, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, n: int, inner: int, heads: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(n, heads, groups, bias), MLP(n, inner)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(n), RMSNorm(n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, vocabulary: int, n: int, inner: int, layers: int, heads: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.embed_tokens, self.norm = nn.Embedding(vocabulary, n), RMSNorm(n)
        self.layers = nn.ModuleList(Layer(n, inner, heads, groups, bias) for _ in range(layers))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class TinyLlama(nn.Module):
    """Random weights, the same for a seed."""

    def __init__(
        self, n: int = 32, inner: int = 64, layers: int = 2, heads: int = 4, groups: int = 2, vocabulary: int = 50,
        bias: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Body(vocabulary, n, inner, layers, heads, groups, bias)
            self.lm_head = nn.Linear(n, vocabulary, False)
        self.to(dtype)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.model(input_ids))
