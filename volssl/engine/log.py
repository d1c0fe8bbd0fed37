"""What a run says: metrics.jsonl, a progress bar or a line now and then, TensorBoard if asked for."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from volssl.engine.metrics import Metrics
from volssl.errors import RunError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# A plain line comes every 10 s, later every twentieth of the run's age: 170 in three days.
PAUSE, SHARE = 10.0, 0.05
WINDOW = 50  # logged steps over which the speed is averaged


class Log:
    """Writes what is recorded; a context, so that the bar is taken down and the file closed whatever happens.

    Args:
        folder: of ``metrics.jsonl``; None for a rank that writes nothing.
        done: steps that the run resumes from; later lines of an earlier start are removed.
        steps: of the whole run. batch: items per step, for the speed. board: also write TensorBoard's files.
        collapses: whether the method can collapse, so that it is watched for it.

    Raises:
        RunError: TensorBoard is asked for and is not installed.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        console: Console,
        done: int,
        steps: int,
        batch: int,
        board: bool = False,
        collapses: bool = True,
    ) -> None:
        self.steps, self.batch = steps, batch
        self.console = console if folder else Console(quiet=True)
        self._collapse = Collapse(possible=collapses)
        self._board = _tensorboard(folder, done) if folder and board else None
        self._metrics = Metrics(folder, done) if folder else None
        for line in self._metrics or ():
            self._collapse.remember(line)
        self._times = deque([(done, time.monotonic())], maxlen=WINDOW)
        self._started = time.monotonic()
        self._next_line = PAUSE
        self._bar, self._task = _bar(self.console, done, steps)

    def __enter__(self) -> Log:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:  # a bar that was never started would end in an empty line
            self._bar.stop()
        if self._metrics:
            self._metrics.close()
        self._on_board(lambda board: board.close())

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values that hold after ``step`` steps, and show them. One call per step at most."""
        if not self._metrics:
            return
        self._times.append((step, time.monotonic()))
        values = {**values, "items_per_second": self._speed() * self.batch}
        if problem := self._metrics.write(step, values):
            self.say(problem)
        for name, value in values.items():
            self._on_board(partial(_add_scalar, name=name, value=value, step=step))
        if warning := self._collapse.judge(values):
            self.say(Text(f"step {step}: {warning}", style="yellow"))
        self._show(step, values)

    def say(self, *lines: str | Text) -> None:
        """Lines for a person, above the bar."""
        for line in lines:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def alert(self, line: str) -> None:
        """A line that a person should see whichever rank it comes from."""
        console = Console(stderr=True) if self.console.quiet else self.console
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The bar is taken down, so that something else may show how it gets on."""
        if self.console.is_terminal:
            self._bar.stop()
        try:
            yield
        finally:
            if self.console.is_terminal:
                self._bar.start()

    def flush(self) -> None:
        """Bring the metrics to the disk, so that a checkpoint never knows more than they do.

        Raises:
            RunError: it takes none.
        """
        if self._metrics:
            self._metrics.flush()

    def _on_board(self, act: Callable[[SummaryWriter], None]) -> None:
        """TensorBoard's files repeat what the metrics hold: where they cannot be written, the run does without."""
        if not self._board:
            return
        try:
            act(self._board)
        except OSError as problem:
            self._board = None
            self.say(f"TensorBoard's files are not written any more: {problem.strerror or problem}")

    def _speed(self) -> float:
        """Steps per second, saving and evaluating included."""
        (first, since), (last, now) = self._times[0], self._times[-1]
        return (last - first) / max(now - since, 1e-9)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        left = (self.steps - step) / max(self._speed(), 1e-9)
        text = describe(values, left=left, alarm=self._collapse.near)
        self._bar.update(self._task, completed=step, text=text)
        if self.console.is_terminal:
            return
        age = time.monotonic() - self._started
        if age >= self._next_line or step == self.steps:
            self._next_line = age + max(PAUSE, SHARE * age)
            self.say(f"step {step}/{self.steps} {text}")


class Collapse:
    """Tells a person when the embeddings lose their space; judges recorded steps one after another.

    It looks at ``spread`` (0: all embeddings point the same way) and ``rank`` (1: they lie on one line), see
    ``volssl.losses.collapse``. Measured on pooled features of small 3D ResNets: untrained 0.18 to 0.39 and,
    with 4 to 16 items a step, a rank of 2.3 to 10; without predictor and slow teacher, or with a learning rate
    25 times too high, 0.005 to 0.02 and 1.2 to 1.6 (group norm). Untrained ViTs are as low on images that are much
    alike, 0.005 to 0.08 and 1.1 to 2.0: so what is under a floor must also have lost half of the highest value of the
    run, unless next to nothing is there.

    Of methods with prototypes it looks at ``prototypes_used``, too: heads may put all items on one or two of them long
    before the encoder follows. Sound DINO on small images never used fewer than half of what it did at first.
    """

    SPREAD, RANK, NOTHING = 0.05, 1.2, 0.002
    FEW, LOST = 3.0, 0.2  # prototypes, and the share of the most that the run has used
    PATIENCE = 5  # recorded steps in a row: one odd batch is no collapse

    def __init__(self, *, possible: bool = True) -> None:
        self._low = {"embeddings": 0, "prototypes": 0}  # recorded steps in a row that were under a floor
        self._possible = possible
        self._spread, self._rank, self._used = 0.0, 1.0, 0.0  # the highest of the run

    @property
    def near(self) -> bool:
        """Whether the last step was under a floor."""
        return any(self._low.values())

    def remember(self, values: Mapping[str, float | None]) -> None:
        """Take a recorded step, of an earlier start too, as what the run was once capable of."""
        self._spread = max(self._spread, values.get("spread") or 0.0)
        self._rank = max(self._rank, values.get("rank") or 1.0)
        self._used = max(self._used, values.get("prototypes_used") or 0.0)

    def judge(self, values: Mapping[str, float]) -> str | None:
        """A warning when ``PATIENCE`` steps in a row were under a floor; again only after a recovery."""
        if not self._possible or "spread" not in values:
            return None
        self.remember(values)
        spread, rank, used = values["spread"], values["rank"], values.get("prototypes_used", self._used)
        for what, low in {"embeddings": self._collapsed(spread, rank), "prototypes": self._fallen(used)}.items():
            self._low[what] = self._low[what] + 1 if low else 0
        then = "Training on will hardly mend it: stop, and lower optim.lr, lengthen optim.warmup or"
        if self._low["embeddings"] == self.PATIENCE:
            seen = f"nearly the same to the encoder (spread {spread:.3f}, effective rank {rank:.2f})"
            return f"the embeddings collapse: all items look {seen}. {then} make the views more different"
        if self._low["prototypes"] == self.PATIENCE:
            fall = f"nearly all items fall on {used:.1f} of them, once {self._used:.0f}"
            return f"the prototypes collapse: {fall}. {then} look at the teacher's temperatures and centre"
        return None

    def _collapsed(self, spread: float, rank: float) -> bool:
        narrow = spread < min(self.SPREAD, self._spread / 2) or spread < self.NOTHING
        return narrow or (rank < self.RANK and rank - 1 < (self._rank - 1) / 2)  # a rank of 1 is none at all

    def _fallen(self, used: float) -> bool:
        return used < min(self.FEW, self.LOST * self._used)


def describe(values: Mapping[str, float], *, left: float, alarm: bool = False) -> Text:
    """One short line: loss, learning rate, speed, seconds ``left``, and the gauge of collapse, red on ``alarm``."""
    text = _labelled({"loss": f"{values['loss']:.4f}", "lr": f"{values['lr']:.2g}"})
    text.append(f" {_short(values['items_per_second'])} items/s {duration(left)} left")
    if "spread" in values:
        gauge = {"spread": f"{values['spread']:.2f}", "rank": _short(values["rank"])}
        text.append(" ").append(_labelled(gauge, "bold red" if alarm else "green"))
    return text


def _labelled(values: Mapping[str, str], style: str = "") -> Text:
    pairs = (Text.assemble((name, "dim"), " ", (value, style)) for name, value in values.items())
    return Text(" ").join(pairs)


def _short(value: float) -> str:
    """Two digits, three from 100 on: 0.035, 0.5, 3.1, 42, 128."""
    return f"{value:.2g}" if value < 0.95 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """A time in at most four characters: 42s, 12m, 3.1h, 2.5d."""
    for unit, size in (("d", 86400.0), ("h", 3600.0)):
        if seconds >= size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f}{unit}"
    return f"{seconds / 60:.0f}m" if seconds >= 60 else f"{seconds:.0f}s"


def _bar(console: Console, done: int, steps: int) -> tuple[Progress, TaskID]:
    columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(bar_width=None), _Values())
    bar = Progress(*columns, console=console, expand=True)
    return bar, bar.add_task("", completed=done, total=steps, text=Text("first step ..."))


class _Values(TextColumn):
    """Shows the text as it was styled; a plain TextColumn would format it anew."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Any) -> Text:
        text: Text = task.fields["text"]
        return text


def _add_scalar(board: SummaryWriter, *, name: str, value: float, step: int) -> None:
    board.add_scalar(name, value, step)


def _tensorboard(folder: Path, done: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RunError("loop.tensorboard: not installed: pip install 'volssl[tensorboard]', or set false") from None
    with _nameless_machine():
        return SummaryWriter(folder / "tensorboard", purge_step=done + 1)


@contextmanager
def _nameless_machine() -> Iterator[None]:
    """TensorBoard puts the machine's name into that of its file, and the file may go anywhere."""
    name = socket.gethostname
    socket.gethostname = lambda: "volssl"
    try:
        yield
    finally:
        socket.gethostname = name
