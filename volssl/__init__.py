"""volssl: self-supervised encoders for medical volumes. Importing this loads neither torch nor MONAI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volssl.evaluation.encoder import load_encoder as load_encoder

__version__ = "0.1.0"
__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    if name == "load_encoder":  # torch is loaded when it is first wanted
        from volssl.evaluation.encoder import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
