"""The house keeps its own rules: every method is under the import contract, names say what a file is."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

import pytest

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


# What makes code of data, and the one place in which each may stand.
UNPICKLES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "runpy",
    "pty",
    "code",
}
IMPORTS = {"volssl/data/cache.py": {"pickle"}}  # bytes that this process has made, for its own loader processes
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *(
        "os.system",
        "os.popen",
        "os.execv",
        "os.execve",
        "os.execl",
        "os.execvp",
        "os.spawnl",
        "os.spawnv",
        "os.posix_spawn",
    ),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *("yaml.UnsafeLoader", "yaml.FullLoader", "yaml.Loader", "torch.load", "torch.jit.load", "torch.hub.load"),
    *("torch.package.PackageImporter", "torch.distributed.checkpoint.load", "dcp.load", "pd.read_pickle"),
    *("dist.all_gather_object", "dist.broadcast_object_list", "torch.distributed.all_gather_object"),
}
PLACES = {
    "volssl/models/weights_file.py": {"torch.load"},  # with weights_only=True, whatever the environment says
    "volssl/evaluation/export.py": {"torch.jit.load"},  # of what has just been written, to compare it
}
KEYWORDS = {("shell", True), ("allow_pickle", True), ("weights_only", False)}
NEEDED = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}


def makes_code_of_data(source: str, path: str = "") -> list[str]:
    """What of a module could run what it reads, as ``line: what``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [f"{node.lineno}: {name}" for name in whole & (CALLS - PLACES.get(path, set()))]
        found += [f"{node.lineno}: {name}" for name in names if name in UNPICKLES - IMPORTS.get(path, set())]  # type: ignore[attr-defined]
        if isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS - PLACES.get(path, set()):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in _call(node)]
    return found


def _call(node: ast.Call) -> list[str]:
    called = ast.unparse(node.func)
    given = {(k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
    found = [called] if called in BUILTINS else []
    found += [f"{key}={value}" for key, value in KEYWORDS & given]
    if called in NEEDED and NEEDED[called] not in given:
        found.append(f"{called} without {NEEDED[called][0]}={NEEDED[called][1]}")
    return found


def test_nothing_that_is_read_can_run() -> None:
    """Checkpoints, configurations, tables, caches and encoders are data."""
    found = []
    for folder in ("volssl", "benchmarks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            name = path.relative_to(REPOSITORY).as_posix()
            found += [f"{name}:{what}" for what in makes_code_of_data(path.read_text(), name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "import pickle",
            "from pickle import loads",
            "import dill as safe",
            "from torch import load",
            "eval(x)",
            "exec(x)",
        ),
        *("compile(x, 'a', 'exec')", "yaml.load(x, Loader=yaml.SafeLoader)", "y = yaml.UnsafeLoader", "os.system(x)"),
        *("torch.load(x)", "torch.load(x, weights_only=True)", "np.load(x)", "np.load(x, allow_pickle=True)"),
        *("subprocess.run(x, shell=True)", "f(weights_only=False)", "__import__(x)", "torch.hub.load(x, y)"),
    ],
)
def test_a_line_that_could_run_it_is_found(line: str) -> None:
    assert makes_code_of_data(f"def f():\n    {line}\n")
    assert not makes_code_of_data("torch.load(x, weights_only=True)", "volssl/models/weights_file.py")
    assert makes_code_of_data("torch.load(x)", "volssl/models/weights_file.py")
