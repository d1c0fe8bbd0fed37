"""Names are marked where a message is made and shown as keyed ids; the user's own words are not."""

from __future__ import annotations

import hmac
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volssl import names, silence
from volssl.cli import main
from volssl.errors import ConfigError, DataError, RunError
from volssl.lookup import look_up
from volssl.names import identifier, private, shown, shown_id, typed, withheld

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(names.SHOW, "")
    monkeypatch.setattr(names, "_key", KEY)
    monkeypatch.setattr(names, "_typed", set())


def by_hand(text: str) -> str:
    return hmac.new(KEY, b"item\0" + text.encode(), "sha256").hexdigest()[:16]


def test_below_the_root_that_the_user_wrote_only_the_root_is_shown() -> None:
    typed("scans")
    assert shown(f"see {private('scans/Jane Doe/1.dcm')}: broken") == f"see scans/{by_hand('Jane Doe/1.dcm')}: broken"
    assert shown_id("Jane Doe/1.dcm") == identifier(KEY, "Jane Doe/1.dcm") == by_hand("Jane Doe/1.dcm")
    assert shown(private("scans")) == "scans"
    assert shown(private("scans2/Jane")) == by_hand("scans2/Jane")


def test_a_table_stands_for_the_folder_it_lies_in() -> None:
    typed("study/labels.csv")
    assert shown(private("study/Jane/1.dcm")) == f"study/{by_hand('Jane/1.dcm')}"


def test_names_are_shown_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(names.SHOW, "1")
    assert shown(f"{private('a/Jane.dcm')}, {withheld('says Jane')}") == "a/Jane.dcm, says Jane"
    assert shown(private("a\nb\x1b[2J\u202e")) == "a\\nb\\x1b[2J\\u202e"


def test_words_of_others_are_withheld() -> None:
    assert shown(f"ValueError: {withheld('bad value Jane')}") == f"ValueError: {names.WITHHELD}"


def test_a_name_cannot_end_its_own_mark() -> None:
    """A file may be called anything, the marks included."""
    mark = private("x")
    evil = f"{mark}Jane{mark[-1]}Doe{mark[0]}item:y"
    assert "Jane" not in shown(private(evil))
    assert "Doe" not in shown(private(evil))


def test_errors_show_ids_after_a_journey_between_processes() -> None:
    typed("root")
    error = DataError("gap", f"slices of {private('Jane')} are missing", "root/Jane/1.dcm")
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert str(one) == f"root/{by_hand('Jane/1.dcm')}: gap: slices of {by_hand('Jane')} are missing"
        assert "Jane" not in repr(one)
    assert str(RunError(f"no {private('Jane')}")) == f"no {by_hand('Jane')}"
    assert str(ConfigError(f"x: {error.told}")) == f"x: {error}"


def test_another_key_gives_other_ids() -> None:
    first = shown_id("Jane")
    names.use(bytes(32))
    assert shown_id("Jane") != first
    assert len(shown_id("Jane")) == 16


def test_a_fault_of_the_program_is_told_without_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        try:
            raise OSError("/data/Jane")
        except OSError as error:
            raise KeyError("Jane") from error

    with pytest.raises(KeyError) as caught:
        fail()
    silence.tell(caught.value)
    told = capsys.readouterr().err
    assert "Jane" not in told
    assert "OSError: [withheld]" in told
    assert "KeyError: [withheld]" in told
    assert "in fail" in told


def test_logs_warnings_and_threads_say_where_and_not_what(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = logging.getLogRecordFactory()
    handler = logging.StreamHandler(sys.stderr)
    log = logging.getLogger("a library")
    log.addHandler(handler)
    try:
        silence.quieten()
        log.warning("cannot read %s", "Jane")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning(UserWarning("Jane"), UserWarning, "/x/site-packages/lib/a.py", 3)

        def fail() -> None:
            raise ValueError("Jane")

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    finally:
        logging.setLogRecordFactory(before)
        log.removeHandler(handler)
    told = capsys.readouterr().err
    assert "Jane" not in told
    assert "a library" in told
    assert "lib/a.py:3: UserWarning" in told
    assert "ValueError: [withheld]" in told


def test_what_is_written_past_python_goes_nowhere_and_its_own_lines_stay() -> None:
    """As libtiff does, of a process that reads."""
    said = "import os, sys; os.write(2, b'Jane'); print('lib/a.py: a warning', file=sys.stderr)"
    program = f"from volssl.silence import quieten_codecs; quieten_codecs(); {said}"
    for visible in ("", "1"):
        environ = {**os.environ, names.SHOW: visible}
        told = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
        assert told.stderr == ("Jane" if visible else "") + "lib/a.py: a warning\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "scans/Jane").mkdir(parents=True)
    for name in ("Jane/1.npy", "2.npy"):
        np.save(tmp_path / "scans" / name, np.zeros((4, 4, 4), np.uint8))
    (tmp_path / "ids.key").write_text(KEY.hex() + "\n")
    return tmp_path


def test_an_id_is_looked_up_by_making_it_again(run: Path) -> None:
    wanted = [identifier(KEY, "Jane/1.npy"), f"scans/{identifier(KEY, 'Jane')}"]
    assert look_up(run, wanted, [run / "scans"]) == {wanted[0]: "Jane/1.npy", wanted[1]: "Jane"}
    assert look_up(run / "ids.key", wanted[:1], [run / "scans"]) == {wanted[0]: "Jane/1.npy"}


def test_an_id_of_nothing_and_a_folder_without_a_key_are_one_line(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"0{16}: no file, folder or item below .*: give --root"):
        look_up(run, ["0" * 16], [run / "scans"])
    with pytest.raises(ConfigError, match=r"no key \(ids.key\) is here"):
        look_up(run / "scans", ["0" * 16], [run / "scans"])
    with pytest.raises(ConfigError, match="says where to look: give --root"):
        look_up(run, ["0" * 16])


def test_the_command_prints_what_it_found(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = identifier(KEY, "Jane/1.npy")
    monkeypatch.setattr(sys, "argv", ["volssl", "names", str(run), one, "--root", str(run / "scans")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out == f"{one}  Jane/1.npy\n"


def test_a_run_says_where_to_look_and_what_its_items_are(tmp_path: Path) -> None:
    """A time point of a file is no path: the data are opened for it."""
    (tmp_path / "scans/Jane").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((8, 8, 8, 3)), np.eye(4)), tmp_path / "scans/Jane/t.nii")
    config = {
        "output": str(tmp_path),
        "data": {"name": "volume", "root": str(tmp_path / "scans"), "time": "items", "cache": str(tmp_path / "cache")},
        "views": {"size": [8, 8, 8]},
        "backbone": {"name": "resnet", "dims": 3, "depth": 10, "stem": "small", "width": 4, "norm": "group"},
        "method": {"name": "byol"},
        "optim": {"name": "sgd", "lr": 0.01},
        "loop": {"steps": 2, "batch": 2, "chunk": 2},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    (tmp_path / "ids.key").write_text(KEY.hex() + "\n")
    wanted = {identifier(KEY, name): name for name in ("Jane/t.nii", "Jane/t.nii@1")}
    assert look_up(tmp_path, list(wanted)) == wanted
