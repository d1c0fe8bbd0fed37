"""Whether a processor multiplies in bf16, from what Linux says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from volssl.engine.processor import emulates_bf16


@pytest.mark.parametrize(
    ("line", "emulated"),
    [
        ("flags\t\t: fpu avx2 fma", True),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", False),
        ("Features\t: fp asimd bf16", False),
        ("Features\t: fp asimd i8mm", True),
        ("model name\t: some processor", False),  # says nothing of it: nothing is claimed
    ],
)
def test_flags_say_it(tmp_path: Path, line: str, emulated: bool) -> None:
    about = tmp_path / "cpuinfo"
    about.write_text(f"processor\t: 0\n{line}\nbugs\t: none\n")
    assert emulates_bf16(about) == emulated


def test_a_system_without_the_file_claims_nothing(tmp_path: Path) -> None:
    assert not emulates_bf16(tmp_path / "nothing")
