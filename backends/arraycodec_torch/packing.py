"""Packing as torch ops, in the two orders of `arraycodec.primitives.packing`.

`store_codes` and `look_up` have 4-bit codes two to a byte, the first of a pair in the high nibble; `store_dense` and
`load_dense` have a dense little-endian bit stream.
"""

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


def store_dense(codes: torch.Tensor, packed: torch.Tensor, bits: int, start: int) -> None:
    """Append uint8 codes to the stream as elements start..., a multiple of 8; at its end, zero bits fill a byte."""
    n = codes.numel()
    if bits == 8:
        packed[start : start + n] = codes
        return
    words = torch.nn.functional.pad(codes, (0, -n % 8)).to(torch.int64)
    for width in (bits, 2 * bits, 4 * bits):  # neighbours move together
        words = words[::2] | words[1::2] << width
    stream = words.view(torch.uint8).view(-1, 8)[:, :bits].reshape(-1)
    first, nbytes = start // 8 * bits, -(-n * bits // 8)
    packed[first : first + nbytes] = stream[:nbytes]


def load_dense(packed: torch.Tensor, bits: int, start: int, stop: int) -> torch.Tensor:
    """The inverse of `store_dense`, from an element that is a multiple of 8: codes as int64, or uint8 if of 8 bits."""
    if bits == 8:
        return packed[start:stop]
    piece = packed[start // 8 * bits : -(-stop * bits // 8)]
    stream = torch.nn.functional.pad(piece, (0, -piece.numel() % bits)).view(-1, bits)
    words = torch.nn.functional.pad(stream, (0, 8 - bits)).view(torch.int64).view(-1)
    for width in (4 * bits, 2 * bits, bits):
        words = torch.stack([words & ((1 << width) - 1), words >> width], dim=1).view(-1)
    return words[: stop - start]
