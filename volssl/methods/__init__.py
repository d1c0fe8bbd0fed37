"""Methods: their configuration (torch-free) and the union that is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.methods.base import Method
    from volssl.models.resnet import ResNet

Momentum = Annotated[float, Field(ge=0.0, le=1.0)]


class BYOLConfig(Schema):
    """BYOL (Grill et al. 2020, arXiv 2006.07733).

    projector, predictor: hidden and output width of each two-layer head. momentum: of the teacher, from the
    first step to the last, along a half cosine. head_norm: ``batch`` sees the whole effective batch.
    """

    name: Literal["byol"] = "byol"
    projector: tuple[int, int] = (4096, 256)
    predictor: tuple[int, int] = (4096, 256)
    momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
    head_norm: Literal["batch", "layer", "none"] = "batch"

    @property
    def views(self) -> int:
        """How many views of an item one step needs."""
        return 2

    @property
    def coupled(self) -> bool:
        """Whether one item's gradient depends on another: through the statistics of the heads' BatchNorm."""
        return self.head_norm == "batch"

    def forwards(self, *, cached: bool) -> int:
        """The work on one view, in forward passes: student there and back (3), teacher (1), once more if cached."""
        return 5 if cached else 4

    def build(self, encoder: ResNet) -> Method:
        """The method around a freshly built encoder."""
        from volssl.methods.byol import BYOL

        return BYOL(self, encoder)


MethodConfig = BYOLConfig
