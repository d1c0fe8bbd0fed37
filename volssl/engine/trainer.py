"""One optimiser step of a method on some samples, and everything that the next step depends on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from volssl.data.items import FixedSource
from volssl.engine.chunks import SHARE, Chunks, Views, memory
from volssl.engine.distributed import Group
from volssl.engine.optim import (
    clip_gradients,
    finite,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    set_weight_decay,
)
from volssl.engine.schedule import learning_rate, weight_decay
from volssl.engine.step import NonFiniteError, backward
from volssl.errors import RunError
from volssl.methods.base import Method
from volssl.names import private
from volssl.types import Progress, Samples

if TYPE_CHECKING:
    from volssl.engine import LoopConfig, OptimConfig
    from volssl.types import Tensors

NAMED = 8  # items that a message names


@dataclass(frozen=True)
class Trainer:
    """What takes part in a step. The number of steps done is not in it: everything is told where it is."""

    method: Method
    optimizer: Optimizer
    optim: OptimConfig
    loop: LoopConfig
    source: FixedSource
    views: Views
    group: Group

    def step(self, samples: Samples, at: Progress) -> dict[str, Tensor | float]:
        """One optimiser step; returns what there is to log.

        Raises:
            RunError: something is not finite, so that nothing may be saved; or the device's memory does not suffice.
        """
        device, autocast = self.group.device, torch.bfloat16 if self.loop.precision == "bf16" else None
        hold = int(SHARE * memory(device)) if self.method.coupled else 0
        chunks = Chunks(samples, self.views, self.loop.chunk, device=device, hold=hold)
        try:
            loss = backward(self.method, chunks, at, group=self.group, autocast=autocast)
        except NonFiniteError as problem:
            raise RunError(self._blame(problem, samples, at, "no weight has moved")) from None
        except torch.OutOfMemoryError:
            raise RunError(self._too_large()) from None
        if self.optim.clip:
            clip_gradients(self.optimizer, loss.metrics["gradient_norm"], self.optim.clip)
        rate, decay = learning_rate(self.optim, at), weight_decay(self.optim, at)
        set_learning_rate(self.optimizer, rate)
        set_weight_decay(self.optimizer, decay)
        try:
            self.optimizer.step()  # the first one makes the optimiser's state
        except torch.OutOfMemoryError:
            raise RunError(
                f"optim: the state of {self.optim.name} does not fit into memory of {device}: "
                "use a smaller backbone or a device with more memory"
            ) from None
        self.method.after_step(loss.stats, at)
        moving = [p for p in self.method.parameters() if p.requires_grad]  # which a teacher only averages
        if not finite(chain(moving, self.method.buffers())):
            kind = "buffers" if finite(moving) else "weights"
            what = NonFiniteError(f"{kind} of the method are", [])
            raise RunError(self._blame(what, samples, at, "none was saved since they moved"))
        varies = {"weight_decay": decay} if isinstance(self.optim.weight_decay, tuple) else {}
        return {"loss": loss.total, "lr": rate, **varies, **loss.metrics}

    def _too_large(self) -> str:
        """One line that names what is still left to make smaller."""
        if self.loop.chunk > 1:
            what = f"{self.loop.chunk} items at once do"
            how = f"try {self.loop.chunk // 2}"
        else:
            what = "a single item does"
            precision = "loop.precision bf16, " if self.loop.precision == "fp32" else ""
            how = f"try {precision}smaller views.size or a smaller backbone"
        return f"loop.chunk: {what} not fit into memory of {self.group.device}: {how}"

    def _blame(self, problem: NonFiniteError, samples: Samples, at: Progress, so: str) -> str:
        """One line that names the items: those with such an image, else such an embedding, else the batch."""
        bad = ~samples.images.isfinite().flatten(1).all(1)
        index = [int(i) for i in samples.index[bad]] or problem.indices or [int(i) for i in samples.index]
        names = [private(self.source.ids[i]) for i in dict.fromkeys(index)]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return (
            f"step {at.step + 1}: {problem}; {so}. Look at {', '.join(names[:NAMED])}{more}; "
            "if their images are sound, lower optim.lr or set optim.clip"
        )

    def state(self) -> Tensors:
        """All tensors that the next step depends on."""
        method = {f"method.{name}": x for name, x in self.method.state_dict().items()}
        return method | {f"optimizer.{name}": x for name, x in optimizer_tensors(self.optimizer).items()}

    def load_state(self, tensors: Tensors) -> None:
        """Put back what ``state`` gave.

        Raises:
            RunError: it belongs to another method or optimiser.
        """
        try:
            self.method.load_state_dict(_under("method.", tensors))
        except RuntimeError as problem:
            raise RunError(f"the checkpoint does not fit this method: {' '.join(str(problem).split())}") from None
        load_optimizer_tensors(self.optimizer, _under("optimizer.", tensors))


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
