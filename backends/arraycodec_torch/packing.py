"""Packing as torch ops: codes of 4 bits two to a byte, the first of a pair in the high nibble."""

from __future__ import annotations

import torch


def store_codes(codes: torch.Tensor, packed: torch.Tensor, bits: int, start: int, zero: torch.Tensor | int) -> None:
    """Pack codes that begin at element `start`; 4 bits: an even element is the high nibble of its byte."""
    n = codes.numel()
    if bits == 8:
        packed[start : start + n] = codes
        return
    first = start & 1
    if first:  # an odd block ended in the middle of this byte
        packed[start >> 1] = (packed[start >> 1] & 0xF0) | codes[0]
    pairs = (n - first) >> 1
    both = codes[first : first + 2 * pairs].view(-1, 2)
    packed[(start + first) >> 1 : ((start + first) >> 1) + pairs] = (both[:, 0] << 4) | both[:, 1]
    if (n - first) & 1:
        packed[(start + n) >> 1] = (codes[n - 1] << 4) | zero


def per_byte(values: torch.Tensor, bits: int) -> torch.Tensor:
    """The values of the one or two codes in each of the 256 bytes; two float32 as one int64."""
    if bits == 8:
        return values
    byte = torch.arange(256, device=values.device)
    return torch.stack([values[byte >> 4], values[byte & 15]], dim=1).view(torch.int64).reshape(-1)


def look_up(packed: torch.Tensor, bits: int, start: int, stop: int, table: torch.Tensor) -> torch.Tensor:
    """The values of the elements start..stop, from what `per_byte` made."""
    if bits == 8:
        return table.index_select(0, packed[start:stop].to(torch.int32))
    pairs = table.index_select(0, packed[start >> 1 : (stop + 1) >> 1].to(torch.int32))  # two floats in one move
    return pairs.view(torch.float32)[start & 1 :][: stop - start]
