"""Where hostile files are tried: the command under watch, and what was not as it must be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gates import hostile
from tests.gates.forked import Forks
from tests.gates.record import record
from tests.gates.watch import told

SECONDS, MEMORY = 30, 3 * 2**30  # that a case may take, beyond what is there when it starts
LINES, LENGTH = 12, 2500  # of what a person is shown: one line a fault, and how long
UNSAFE = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


@dataclass
class Ground:
    """Where cases are tried: a sound run with its encoder. faults: what was not as it must be, a line each."""

    forks: Forks
    place: Path
    base: dict[str, Any]
    tried: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def canary(self) -> Path:
        return self.place / "canary"

    def case(
        self,
        name: str,
        *arguments: str,
        codes: Sequence[int] = (2,),
        asked: str = "",
        before: str = "tests.gates.watch:watch",
    ) -> None:
        """Run the command in a folder of its own under watch, and note whatever is wrong.

        asked: a folder elsewhere that the configuration asks to be made. before: what watches, and may do more.
        """
        self.tried += 1
        said, log = self.place / f"said-{self.tried}", self.place / f"log-{self.tried}"
        allowed = [str(self.work), str(self.place / "tmp"), *([str(self.work / asked)] if asked else [])]
        given = {"log": str(log), "allowed": allowed, "memory": MEMORY}
        code = self.forks.run(
            arguments,
            cwd=self.work,
            said=said,
            environ={**UNSAFE, "TMPDIR": str(self.place / "tmp")},
            before=before,
            given=given,
            seconds=SECONDS,
        )
        text = said.read_text(errors="replace")
        lines = text.splitlines()
        wrong = [f"exit {code}"] if code not in codes else []
        wrong += [f"did: {line[:300]}" for line in told(log)]
        wrong += ["the canary is there"] if self.canary.exists() else []
        if code and ("Traceback" in text or "fault of the program" in text or not text.strip()):
            wrong.append("no plain line")
        if code and (len(lines) > LINES or max(map(len, lines), default=0) > LENGTH):
            wrong.append(f"{len(lines)} lines of up to {max(map(len, lines))}")
        if any(letter in text for letter in "\0\x07\x1b\u202e\u2028"):
            wrong.append("control characters are shown")
        if wrong:
            self.faults.append(f"{name}: {'; '.join(wrong)}: {text[-600:]}")
        self.canary.unlink(missing_ok=True)

    @property
    def work(self) -> Path:
        return self.place / "work"

    def write(self, text: str | bytes, name: str = "case.yaml") -> str:
        (self.work / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return name

    def put(self, files: hostile.Files, folder: str) -> str:
        """The files alone, in a fresh folder."""
        shutil.rmtree(self.work / folder, ignore_errors=True)
        for name, content in files.items():
            path = self.work / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    def evaluate(self, name: str, changed: dict[str, Any], codes: Sequence[int] = (2,), *, anew: bool = True) -> None:
        """``volssl evaluate`` of the pictures, in the folder ``study``."""
        if anew:
            shutil.rmtree(self.work / "study", ignore_errors=True)
        rows = "".join(f"{i}.png,{i % 2},{i}\n" for i in range(8))
        self.write("path,label,patient\n" + rows, "pictures/labels.csv")
        study = self.study() | {"cache": "cache", "output": "study", "device": "cpu", "report": False, **changed}
        self.case(name, "evaluate", self.write(json.dumps(study), "study.yaml"), codes=codes)
        (self.work / "pictures/labels.csv").unlink()

    def study(self) -> dict[str, Any]:
        """What is evaluated."""
        data = {"name": "image", "root": "pictures/labels.csv", "region": [16, 16]}
        return {"sets": {"one": {"data": data, "folds": 2}}, "protocols": [{"name": "knn"}], "bootstrap": 100}

    def conclude(self, what: str) -> None:
        """Into the record, and an error where anything was not as it must be."""
        record(what, f"{len(self.faults)} faults", "nothing executed or written outside, one line, exit 2")
        assert not self.faults, "\n\n".join(self.faults[:10])
