"""What the header of a NumPy array claims, before any of its numbers are asked for (torch-free)."""

from __future__ import annotations

from typing import IO, Any

import numpy as np


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether in Fortran's order, and type; the file stands at the first number then.

    Raises:
        ValueError: no array, or one of structures with names beyond Latin, which only format 3.0 can hold.
    """
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"format {version} is not read")
    return read[version](file)


def type_name(dtype: np.dtype[Any]) -> str:
    """What a message may call a type: whoever made a structure gave names to its fields."""
    return "a structure of fields" if dtype.kind == "V" else str(dtype)
