"""Tokens as they are stored, in one or more arrays, and their way into a batch.

Tokens of caches without a codec, of one width and dtype, are in one array in the storage dtype;
those of each cache with a codec are in an array of codes, which is decoded when a batch is made, on
the batch's device.

Shapes: M rows as stored, S tokens of a row, D width, W numbers of a code, B rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.data.collate import GATHER_ELEMENTS, gather, normalize
from layercache.probing.data.token_decoder import TokenDecoder

DECODE_ELEMENTS = 2**26
"""Elements that are decoded at a time on a GPU: 256 MiB."""
STAGING_ROWS = 2048
"""Rows that are copied to a GPU at a time."""


@dataclass(frozen=True, eq=False)
class StoredTokens:
    """Tokens of M rows."""

    arrays: tuple[Tensor, ...]
    """Tokens (S_i, M, D) or codes (S_i, M, W)."""
    decoders: tuple[TokenDecoder | None, ...]
    """Decoder of each array, on the device of the batches; None for tokens."""

    @property
    def device(self) -> torch.device:
        """Device of the arrays."""
        return self.arrays[0].device

    @property
    def parts(self) -> list[tuple[slice, Tensor, TokenDecoder | None]]:
        """(range of the S tokens, their array, its decoder) of each array."""
        parts, start = [], 0
        for array, decoder in zip(self.arrays, self.decoders, strict=True):
            parts.append((slice(start, start + len(array)), array, decoder))
            start += len(array)
        return parts

    def gather(self, positions: Tensor, *, out: Tensor) -> None:
        """Write the normalized tokens of some rows to `out`.

        Args:
            positions: int64 (B,), positions along M.
            out: float32 (B, S, D), perhaps on another device than the arrays; tokens of a smaller
                width get zeros.
        """
        for tokens, array, decoder in self.parts:
            width = array.shape[2] if decoder is None else decoder.width
            target = out[:, tokens, :width]
            out[:, tokens, width:] = 0
            if array.device.type == "cpu" and out.device.type != "cpu":
                _gather_to_device(array, positions, decoder, out=target)
            elif decoder is None:
                gather(array, positions, out=target)
            else:
                _gather_codes(array, positions, decoder, out=target)

    def select(self, positions: Tensor, *, out: Tensor) -> None:
        """Write the tokens of some rows, not normalized, to `out`, (S, n, D) in any dtype."""
        for tokens, array, decoder in self.parts:
            stored = array.index_select(1, positions.to(array.device))
            if decoder is not None:
                stored = decoder.decode(stored.to(decoder.device))
            out[tokens].copy_(stored)

    def token(self, number: int, positions: Tensor) -> Tensor:
        """Return one of the S tokens of some rows, not normalized, (n, D)."""
        for tokens, array, decoder in self.parts:
            if tokens.start <= number < tokens.stop:
                own = number - tokens.start
                stored = array[own].index_select(0, positions)
                if decoder is None:
                    return stored
                codes = stored[None].to(decoder.device)
                return decoder.decode(codes, tokens=slice(own, own + 1))[0]
        raise IndexError(number)

    def identifying_bytes(self, positions: Tensor) -> list[bytes]:
        """Return bytes that differ between different images, one for each of some rows.

        They are the last token that is stored as it is; where all are codes, which two images may
        share, all codes.
        """
        plain = [array[-1:] for _, array, decoder in self.parts if decoder is None]
        chosen = plain[-1:] or self.arrays
        arrays = [
            x.index_select(1, positions.to(x.device)).transpose(0, 1).contiguous().cpu().numpy()
            for x in chosen
        ]
        return [b"".join(x[n].tobytes() for x in arrays) for n in range(len(positions))]


def _gather_codes(
    codes_smw: Tensor, positions: Tensor, decoder: TokenDecoder, *, out: Tensor
) -> None:
    """Decode and normalize some rows, a few at a time, (S, M, W) -> (B, S, D)."""
    elements = GATHER_ELEMENTS if out.device.type == "cpu" else DECODE_ELEMENTS
    rows = max(1, elements // (out.shape[1] * out.shape[2]))
    for part, x_bsd in zip(torch.split(positions, rows), torch.split(out, rows), strict=True):
        normalize(decoder.decode(codes_smw.index_select(1, part)), out=x_bsd)


def _gather_to_device(
    array: Tensor, positions: Tensor, decoder: TokenDecoder | None, *, out: Tensor
) -> None:
    """Copy rows to the device of `out` as they are stored, decode and normalize them there."""
    pinned = out.device.type == "cuda"
    rows = STAGING_ROWS
    if decoder is not None:
        rows = min(rows, max(1, DECODE_ELEMENTS // (out.shape[1] * out.shape[2])))
    for part, x_bsd in zip(torch.split(positions, rows), torch.split(out, rows), strict=True):
        # torch caches pinned memory, so that this allocation is cheap after the first
        shape = (len(array), len(part), array.shape[2])
        staged = torch.empty(shape, dtype=array.dtype, pin_memory=pinned)
        # the copy to the GPU is complete when `to` returns, so that the memory may be reused
        stored = torch.index_select(array, 1, part, out=staged).to(out.device)
        normalize(stored if decoder is None else decoder.decode(stored), out=x_bsd)


def plain_tokens(x_smd: Tensor) -> StoredTokens:
    """Return tokens that no codec stores."""
    return StoredTokens((x_smd,), (None,))
