"""Methods: their configuration (torch-free) and the union that is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.methods.base import Method
    from volssl.models import Backbone

Width = Annotated[int, Field(ge=1)]
Momentum = Annotated[float, Field(ge=0.0, le=1.0)]


class BYOLConfig(Schema):
    """BYOL (Grill et al. 2020, arXiv 2006.07733).

    projector, predictor: hidden and output width of each two-layer head. momentum: of the teacher, from the
    first step to the last, along a half cosine. head_norm: ``batch`` sees the whole effective batch.
    """

    name: Literal["byol"] = "byol"
    projector: tuple[Width, Width] = (4096, 256)
    predictor: tuple[Width, Width] = (4096, 256)
    momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
    head_norm: Literal["batch", "layer", "none"] = "batch"

    @model_validator(mode="after")
    def _widths_agree(self) -> Self:
        if self.predictor[1] != self.projector[1]:
            raise ValueError(
                f"method.predictor must end in the {self.projector[1]} numbers that method.projector ends in "
                f"(got {self.predictor[1]}): use predictor: [{self.predictor[0]}, {self.projector[1]}]"
            )
        return self

    @property
    def views(self) -> int:
        """How many views of an item one step needs."""
        return 2

    @property
    def coupled(self) -> bool:
        """Whether one item's gradient depends on another: through the statistics of the heads' BatchNorm."""
        return self.head_norm == "batch"

    def forwards(self, *, cached: bool) -> int:
        """Forward passes per view: student there and back (3), teacher (1), once more if cached."""
        return 5 if cached else 4

    def build(self, encoder: Backbone) -> Method:
        """The method around a freshly built encoder."""
        from volssl.methods.byol import BYOL

        return BYOL(self, encoder)


MethodConfig = BYOLConfig
