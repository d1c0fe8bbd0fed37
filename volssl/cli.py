"""The commands: parse, call, print. What they call is loaded when they are called."""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Annotated, Any

import typer

from volssl.errors import PeerError, UserError
from volssl.names import SHOW, one_line
from volssl.silence import quieten, tell
from volssl.strict_yaml import natural
from volssl.unfailing import unfailing

LONGEST, MOST = 2000, 100  # characters of a line, lines of a message
STOPPED = 143  # the exit code of a command that was asked to stop

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Self-supervised encoders for medical volumes, trained exactly and evaluated honestly.",
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; see configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values put over the file's, for example loop.steps=100."),
]
Encoder = Annotated[Path, typer.Argument(metavar="ENCODER", help="The encoder/ folder of a run.")]


@app.callback()
def _options(
    names: Annotated[bool, typer.Option("--names", help=f"Show true names of files, as {SHOW}=1 does.")] = False,
) -> None:
    if names:
        os.environ[SHOW] = "1"


@app.command()
def train(config: Config, overrides: Overrides = None) -> None:
    """Pre-train an encoder. Run the same command again: it resumes."""
    from volssl.config import load

    run = load(config, overrides or [], world=_world())
    from volssl import run as root

    root.train(run)


@app.command()
def check(config: Config, overrides: Overrides = None) -> None:
    """Check a configuration and print what follows from it, without loading torch or touching a device."""
    from volssl.check import derived
    from volssl.config import load

    run = load(config, overrides or [], world=_world())
    rows = derived(run)
    width = max(len(name) for name, _ in rows)
    typer.echo(f"{config}: nothing wrong")
    for name, value in rows:
        typer.echo(f"  {name:<{width}}  {value}")


@app.command()
def index(
    roots: Annotated[list[Path], typer.Argument(metavar="ROOT...", help="Folders of images, at any depth.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The manifest to write.")] = Path("manifest.parquet"),
    html: Annotated[Path | None, typer.Option(help="A contact sheet to write, one page.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read; one per core where absent.")] = None,
) -> None:
    """List, verify and describe every image under some folders, once; training reads the list (data.root)."""
    from rich.console import Console

    from volssl.data.index import index as write_manifest
    from volssl.progress import progress

    console, start = Console(highlight=False), monotonic()
    processes = _cores() if workers is None else workers
    with progress(console, "verifying") as report:
        summary = write_manifest(roots, out, workers=processes, report=report)
    for line in summary.lines():
        typer.echo(line)
    typer.echo(f"{out}: written in {monotonic() - start:.0f} s")
    if html is not None:
        from volssl.data.sheet import write_sheet

        with progress(console, "drawing") as report:
            write_sheet(out, html, workers=processes, report=report)
        typer.echo(f"{html}: the contact sheet")


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


@app.command()
def evaluate(config: Config, overrides: Overrides = None) -> None:
    """Say what encoders are worth when labels are few, with intervals, beside random ones and raw pixels."""
    from volssl.config import load_evaluation

    wanted = load_evaluation(config, overrides or [])
    from volssl import run as root

    root.evaluate(wanted)


@app.command()
def embed(
    encoder: Encoder,
    data: Annotated[Path, typer.Argument(help="A folder, a labels.csv, a manifest or an .npz of images.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The Parquet file to write.")] = Path("features.parquet"),
    part: Annotated[int | None, typer.Option(min=0, help="As which of several data sets items are prepared.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read items.")] = 0,
) -> None:
    """Write the frozen features of every image: a table of id, label and one column per feature."""
    from volssl import run as root

    root.embed(encoder, data, out, part=part, workers=workers)


class Format(StrEnum):
    """What an encoder may become."""

    torchscript = "torchscript"
    onnx = "onnx"
    monai_bundle = "monai-bundle"


@app.command()
def export(
    encoder: Encoder,
    to: Annotated[Format, typer.Option(help="The form that another program reads.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file, or the bundle's folder.")] = None,
) -> None:
    """Write an encoder for use without volssl, checked against the original."""
    from volssl import run as root

    root.export(encoder, to.value, out)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    train_exams: Annotated[int, typer.Option("--train", min=2, help="Training exams.")] = 240,
    valid_exams: Annotated[int, typer.Option("--valid", min=2, help="Validation exams.")] = 120,
    pixels: Annotated[int, typer.Option(min=32, help="Rows and columns of a slice; MRNet has 256.")] = 256,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes.")] = 0,
) -> None:
    """Write a SYNTHETIC knee cohort in MRNet's layout."""
    from volssl.run import make_phantom

    make_phantom(out, train=train_exams, valid=valid_exams, pixels=pixels, seed=seed, workers=workers)


@app.command("acl-tear")
def acl_tear(
    encoder: Encoder,
    data: Annotated[Path, typer.Argument(help="A folder in MRNet's layout.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="For example protocols=[frozen,finetune] fractions=[0.1]."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where results are written.")] = None,
    kinetics: Annotated[Path | None, typer.Option(help="torchvision's R3D-18 Kinetics-400 weights.")] = None,
) -> None:
    """Say what an encoder is worth for finding ACL tears, beside a randomly initialised one."""
    from volssl.config import component
    from volssl.evaluation import ACLTearConfig

    given = {"data": str(data)} | ({"kinetics": str(kinetics)} if kinetics else {})
    config = component(ACLTearConfig, given, overrides or [])
    from volssl import run as root
    from volssl.evaluation.acl_tear import beside

    root.acl_tear(encoder, config, out or beside(encoder, data))


@app.command("names")
def find_names(
    key: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run or evaluation, or a file of a key.")],
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As messages, tables and reports have them.")],
    root: Annotated[list[Path] | None, typer.Option(help="Where to look; without it, what the run read.")] = None,
) -> None:
    """Find out which file an id is. Nothing is stored: ids are made again of everything below the roots."""
    from volssl.lookup import look_up

    for name, found in look_up(key, ids, root or []).items():
        typer.echo(f"{name}  {found}")


def _world() -> int:
    """How many ranks torchrun or srun started; what is no number is refused when they meet."""
    given = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return natural(given) or 1


@unfailing()
def main() -> None:
    """The entry point: a fault of the user's is one line and exit code 2, never a traceback.

    One of the program's is a traceback and exit code 1, without words that may hold names. SIGTERM and SIGUSR1 end any
    command with code 143; while a run trains, its loop has handlers of its own. What cannot be said ends nothing.
    """
    quieten()
    before: dict[signal.Signals, Any] = {
        number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGUSR1)
    }
    try:
        app(standalone_mode=True)
    except SystemExit as e:
        if e.code == STOPPED:  # who asks once more while the interpreter takes itself down is not to have another code
            before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    except UserError as e:
        typer.echo(_told(str(e)), err=True)
        if isinstance(e, PeerError):  # what an interpreter takes down at its end would wait for the peer
            sys.stdout.flush()
            os._exit(e.exit_code)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # native codecs raise outside Exception
        if isinstance(e, MemoryError) or "can't allocate memory" in str(e):  # torch has no kind of its own for it
            typer.echo("volssl: not enough memory: look at sizes, widths and loop.batch", err=True)
            sys.exit(UserError.exit_code)
        tell(e)
        sys.exit(1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the signature of a handler)
    raise SystemExit(STOPPED)


def _told(message: str) -> str:
    """A line for each line of the message, none of which does anything to the terminal or fills it."""
    lines = [f"{line[:LONGEST]}..." if len(line) > LONGEST else line for line in map(one_line, message.split("\n"))]
    more = [f"and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return "\n".join([f"volssl: {lines[0]}"] if len(lines) == 1 else ["volssl:", *lines[:MOST], *more])


if __name__ == "__main__":
    main()
