"""Weights of 8 bits with a scale for each block of a matrix, as DeepSeek-V3 has them, read plain.

A matrix X of F8_E4M3 has beside it X_scale_inv, one number for each block of it, which may be
partial at the last rows and columns. A weight is its number times the scale of its block.
Source: https://huggingface.co/deepseek-ai/DeepSeek-V3 (README_WEIGHTS.md).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxllm.hf.tensor_files import Entry
from jaxllm.hf.theirs import Theirs

FP8, SUFFIX = "F8_E4M3", "_scale_inv"
KEY = "quantization_config"
# Keys that do not change what the weights are: layers that were left as they are, which their own
# dtype tells; whether transformers dequantises; how the scales were rounded before they were saved.
INERT = frozenset({"modules_to_not_convert", "dequantize", "scale_fmt"})


class BlockSize(NamedTuple):
    """Rows and columns of the blocks that have one scale."""

    rows: int
    columns: int


def read_block_size(raw: Mapping[str, Any], *, name: str) -> BlockSize | None:
    """What a config.json says of its weights; None where they are plain.

    ValueError for any other quantisation, by its name.
    """
    if not raw.get(KEY):
        return None
    if not isinstance(raw[KEY], dict):
        raise ValueError(f"{name}: {KEY} is {raw[KEY]!r}, not an object")
    theirs = Theirs(raw[KEY], name=f"{KEY} of {name}")
    method = theirs.get("quant_method", "in some way")
    if method != "fp8":
        raise ValueError(
            f"{name} says that the weights are quantised ({method}), which is not read; get them "
            "in bfloat16 or float32"
        )
    theirs.expect("fmt", "e4m3")
    theirs.expect("activation_scheme", "dynamic")
    size = theirs.get("weight_block_size", [128, 128])
    is_pair = isinstance(size, list) and len(size) == 2
    if not is_pair or not all(type(n) is int and n > 0 for n in size):
        theirs.refuse(f"weight_block_size={size!r} is not two positive whole numbers")
    theirs.check_all_read(INERT)
    return BlockSize(*size)


class ScaledEntry(NamedTuple):
    """A matrix with its scales, where they lie. scales: None where the folder has none."""

    values: Entry
    scales: Entry | None
    scales_name: str
    block: BlockSize

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def problem(self) -> str | None:
        """Why it cannot be read, if it cannot."""
        if len(self.shape) != 2:
            return f"of {FP8} and shape {self.shape}, but only matrices have scales of blocks"
        if self.scales is None:
            return f"of {FP8}, but its scales {self.scales_name} are missing"
        if self.scales.problem:
            return f"of {FP8}, but its scales {self.scales_name} are of {self.scales.dtype}"
        expected = tuple(-(-n // size) for n, size in zip(self.shape, self.block, strict=True))
        if self.scales.shape != expected:
            return (
                f"of {FP8} and shape {self.shape}, but its scales {self.scales_name} are of shape "
                f"{self.scales.shape}, not {expected}, one for each {self.block.rows} x "
                f"{self.block.columns}"
            )
        return None

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        """The weights in these rows and columns, float32."""
        assert self.scales is not None
        weights = self.values.read(box).astype(np.float32)
        rows, columns = (
            np.arange(*piece.indices(n)) // size
            for piece, n, size in zip(box, self.shape, self.block, strict=True)
        )
        if not weights.size:
            return weights
        around = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        scales = self.scales.read(around).astype(np.float32)
        for number, line in enumerate(scales):
            # Of one row of blocks, so that what is spread over the columns is one vector.
            weights[rows == rows[0] + number] *= line[columns - columns[0]]
        return weights


def with_scales(entries: Mapping[str, Entry], block: BlockSize) -> dict[str, Entry | ScaledEntry]:
    """The tensors of a folder, each of 8 bits joined with its scales."""
    scaled = {name: f"{name}{SUFFIX}" for name, entry in entries.items() if entry.dtype == FP8}
    used = set(scaled.values())
    return {
        name: ScaledEntry(entry, entries.get(scaled[name]), scaled[name], block)
        if name in scaled
        else entry
        for name, entry in entries.items()
        if name not in used
    }
