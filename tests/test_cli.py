"""The commands as a user types them: start-up, help, check, and wrong input, each one line and exit code 2."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TINY = """\
output: {out}
data: {{name: stack, root: {root}, region: [8, 32, 32], cache: {cache}}}
views: {{size: [8, 16, 16], crop: [0.5, 1.0]}}
backbone: {{name: resnet, depth: 10, stem: small, width: 4, norm: group}}
method: {{name: byol, projector: [16, 8], predictor: [16, 8]}}
optim: {{name: sgd, lr: 0.01}}
loop: {{steps: 2, batch: 4, chunk: 2}}
"""


def volssl(*args: str | Path | int, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "volssl", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A configuration over twelve stacks of noise."""
    (tmp_path / "stacks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        np.save(tmp_path / "stacks" / f"{i:04}.npy", rng.integers(0, 255, (9, 32, 32), dtype=np.uint8))
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(out=tmp_path / "out", root=tmp_path / "stacks", cache=tmp_path / "cache"))
    return path


def refused(*args: str | Path | int) -> str:
    """The message of a command that must fail for a user's reason: exit code 2, no traceback."""
    done = volssl(*args)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_importing_loads_neither_torch_nor_monai() -> None:
    code = "import sys, volssl; sys.exit(bool({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("args", "limit"), [(("--help",), 0.5), (("check", "{tiny}"), 2.0)])
def test_start_up_is_quick(tiny: Path, args: tuple[str, ...], limit: float) -> None:
    """Processor time, the best of three: other work on the machine adds waiting, which is not the command's."""
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert volssl(*(a.format(tiny=tiny) for a in args)).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < limit


def test_check_prints_the_derived_numbers(tiny: Path) -> None:
    done = volssl("check", tiny)
    assert done.returncode == 0, done.stderr
    assert "12 items of 8 x 32 x 32, 1 channel" in done.stdout
    assert "steps per epoch  3.0" in done.stdout
    assert "epochs           0.7" in done.stdout
    assert "4 items a step in chunks of 2" in done.stdout


def test_check_and_an_error_load_neither_torch_nor_monai(tiny: Path) -> None:
    for extra in ("seed=1", "seed=x"):
        code = (
            "import sys\nfrom volssl.cli import main\n"
            f"sys.argv = ['volssl', 'check', {str(tiny)!r}, {extra!r}]\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_train_writes_what_others_use_and_a_second_run_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    first = volssl("train", tiny)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "out"
    assert (out / "config.yaml").is_file()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    weights = (out / "encoder" / "model.safetensors").read_bytes()
    second = volssl("train", tiny)
    assert second.returncode == 0, second.stderr
    assert (out / "encoder" / "model.safetensors").read_bytes() == weights
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


def test_an_unknown_key(tiny: Path) -> None:
    assert "loop.stepz: no such key: did you mean steps?" in refused("train", tiny, "loop.stepz=3")


def test_a_missing_folder(tiny: Path, tmp_path: Path) -> None:
    message = refused("train", tiny, f"data.root={tmp_path / 'nowhere'}")
    assert "nowhere" in message
    assert len(message.splitlines()) == 1


def test_an_empty_folder(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refused("train", tiny, f"data.root={tmp_path / 'empty'}")
    assert "empty" in message
    assert len(message.splitlines()) == 1


def test_one_corrupt_file_is_told_and_left_out_or_stops_the_run(tiny: Path, tmp_path: Path) -> None:
    """1 of 13 is 7.7 %: more than data.max_bad's 1 %, less than 10 %."""
    (tmp_path / "stacks" / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00 nothing of the kind")
    message = refused("train", tiny)
    assert "broken.npy" in message
    assert "max_bad" in message
    done = volssl("train", tiny, "data.max_bad=0.1")
    assert done.returncode == 0, done.stderr
    assert "broken.npy" in done.stdout + done.stderr


def test_a_view_larger_than_the_region(tiny: Path) -> None:
    assert "views.size" in refused("train", tiny, "data.region=[8, 12, 32]")


def test_a_chunk_that_does_not_divide_the_batch(tiny: Path) -> None:
    assert "loop.chunk: 3 does not divide loop.batch 4: use 2 or 4" in refused("train", tiny, "loop.chunk=3")


def test_an_output_of_another_config_is_refused_with_the_difference(tiny: Path, tmp_path: Path) -> None:
    assert volssl("train", tiny).returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    message = refused("train", tiny, "optim.lr=0.02")
    assert "optim.lr: 0.01 -> 0.02" in message
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_an_output_that_is_no_run_is_not_written_into(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("do not touch")
    message = refused("train", tiny)
    assert "output" in message
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_an_output_that_is_a_file(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    assert "output" in refused("train", tiny)


def test_weights_are_told_in_full_refused_by_their_key_and_not_needed_again(tiny: Path, tmp_path: Path) -> None:
    """An encoder of a first run starts a second one, which goes on when the encoder is gone."""
    assert volssl("train", tiny).returncode == 0
    given = (f"backbone.weights={{path: {tmp_path / 'out' / 'encoder'}}}", f"output={tmp_path / 'next'}")
    gone = "backbone.weights={path: nowhere.pth}"
    key = "backbone.weights.path: nowhere.pth does not exist: give the path of a file"
    assert key in refused("check", tiny, gone)
    missing = refused("train", tiny, gone, f"output={tmp_path / 'other'}")
    assert "volssl: backbone.weights: nowhere.pth: cannot be read as weights: No such file" in missing
    done = volssl("train", tiny, *given)
    assert done.returncode == 0, done.stderr
    assert "weights.txt" in done.stdout
    told = (tmp_path / "next" / "weights.txt").read_text().splitlines()
    assert told[0] == "backbone.weights"
    assert "  layers.3.0.conv2.weight" in told
    (tmp_path / "out" / "encoder").rename(tmp_path / "moved")
    again = volssl("train", tiny, *given)
    assert again.returncode == 0, again.stderr


def test_an_evaluation_that_cannot_be_is_refused_before_data_are_read(tiny: Path, tmp_path: Path) -> None:
    """Flat images have no knees. The data root holds nothing readable, which would be told first if it were read."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"no picture")
    knees = tmp_path / "knees"
    flat = (f"data={{name: image, root: {tmp_path / 'pictures'}}}", "views.size=[16, 16]", "backbone.dims=2")
    message = refused("train", tiny, *flat, f"evaluate=[{{name: acl_tear, data: {knees}}}]")
    assert "evaluate" in message
    assert "2D images" in message


def test_a_phantom_is_made_and_said_to_be_synthetic(tmp_path: Path) -> None:
    done = volssl("phantom", tmp_path / "knees", "--train", 2, "--valid", 2, "--pixels", 48)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC" in done.stdout
    assert (tmp_path / "knees" / "train" / "sagittal" / "0000.npy").is_file()


def test_acl_tear_refuses_what_is_no_encoder(tmp_path: Path) -> None:
    assert "encoder" in refused("acl-tear", tmp_path, tmp_path)
