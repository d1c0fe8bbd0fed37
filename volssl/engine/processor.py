"""What this machine's processor can do (torch-free)."""

from __future__ import annotations

from pathlib import Path

_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM


def emulates_bf16(about: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has no instruction for bf16 products, so that bf16 is many times slower on it than fp32.

    Args:
        about: what Linux says of the CPU; where there is no such file, nothing is claimed.
    """
    try:
        text = about.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = (line.partition(":") for line in text.splitlines())
    flags = [set(value.split()) for key, _, value in lines if key.strip().lower() in ("flags", "features")]
    return bool(flags) and not flags[0] & _BF16
