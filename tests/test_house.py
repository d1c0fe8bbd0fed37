"""The house keeps its own rules: every method is under the import contract, names say what a file is."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from tests.executes import executes

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_method_is_under_the_contract_that_methods_do_not_import_one_another() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(REPOSITORY / "setup.cfg")
    listed = contracts["importlinter:contract:methods"]["modules"].split()
    files = {path.stem for path in (REPOSITORY / "volssl" / "methods").glob("*.py")} - {"__init__", "base"}
    assert sorted(listed) == sorted(f"volssl.methods.{name}" for name in files)


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "helpers", "misc", "common"}
    assert not [path for path in (REPOSITORY / "volssl").rglob("*.py") if path.stem in drawers]


def test_every_module_opens_with_one_line_on_what_it_is() -> None:
    for folder in ("volssl", "tests", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert path.read_text().startswith('"""'), path


def test_nothing_that_is_read_can_run() -> None:
    """Checkpoints, configurations, tables, caches and encoders are data."""
    found = []
    for folder in ("volssl", "benchmarks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            name = path.relative_to(REPOSITORY).as_posix()
            found += [f"{name}:{what}" for what in executes(path.read_text(), name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "import pickle",
            "from pickle import loads",
            "import dill as safe",
            "import code",
            "from builtins import eval",
        ),
        *(
            "eval(x)",
            "f = eval",
            "list(map(exec, x))",
            "compile(x, 'a', 'exec')",
            "__import__(x)",
            "__builtins__[x](y)",
        ),
        *("import importlib; importlib.import_module(x)", "from importlib import import_module"),
        *("import importlib.util as u; u.spec_from_file_location(x, y)", "import ctypes", "import logging.config"),
        *("from torch import load", "torch.load(x)", "torch.load(x, weights_only=True)", "getattr(torch, 'load')(x)"),
        *("import torch as t; t.load(x)", "from torch import jit; jit.load(x)", "torch.serialization.load(x)"),
        *("torch.hub.load(x, y)", "from torch.distributed import checkpoint; checkpoint.load(x)"),
        *("import torch.distributed as d; d.recv_object_list(x)", "d.gather_object(x)"),
        *("import yaml as y; y.load(x, Loader=y.SafeLoader)", "from yaml import UnsafeLoader", "yaml.CLoader(x)"),
        *("np.load(x)", "import numpy; numpy.load(x, allow_pickle=False)", "f(allow_pickle=flag)", "f(allow_pickle=1)"),
        *(
            "from numpy import load as l; l(x)",
            "np.lib.format.read_array(f, True)",
            "from numpy.lib.npyio import NpzFile",
        ),
        *("import pandas as pd; pd.read_pickle(x)", "from multiprocessing.reduction import ForkingPickler"),
        *("import os as o; o.system(x)", "from os import execvpe", "import os; os.spawnlp(0, x)", "f(shell=S)"),
        *("import subprocess", "from subprocess import getoutput", "f(x, shell=True)", "f(weights_only=False)"),
        *("import asyncio; asyncio.create_subprocess_shell(x)", "from monai.bundle import ConfigParser"),
    ],
)
def test_a_line_that_could_run_it_is_found(line: str) -> None:
    source = f"import numpy as np\nimport torch\nimport yaml\ndef f():\n    {line}\n"
    assert executes(source)


def test_what_may_stand_in_one_place_may_not_stand_there_otherwise() -> None:
    weights, cache = "volssl/models/weights_file.py", "volssl/data/cache.py"
    assert not executes("import torch\ntorch.load(x, weights_only=True)", weights)
    for line in ("torch.load(x)", "torch.load(x, weights_only=w)", "f = torch.load", "torch.load(x, **k)"):
        assert executes(f"import torch\n{line}", weights), line
    assert not executes("import pickle\npickle.loads(x)", cache)
    assert executes("import pickle\npickle.load(open(x))", cache)


def test_what_harms_nobody_is_let_be() -> None:
    for line in ("from importlib.metadata import version", "model.eval()", "re.compile(x)", "yaml.safe_dump(x)"):
        assert not executes(f"import re\nimport yaml\n{line}"), line
