"""Views: their configuration (torch-free)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.views.views import Views

Range = tuple[float, float]
Positive = Annotated[float, Field(gt=0)]
