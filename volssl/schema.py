"""The base of every configuration class: frozen, strict, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """Plain data. Sequences are tuples, a boolean is not a number, a string is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
