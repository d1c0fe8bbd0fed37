"""What in a module's source could run what it reads, whatever the names are called there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

# Names, as they are called where they come from; one that begins so counts, too.
DANGEROUS = re.compile(
    "|".join(
        (
            # unpickling, and what unpickles
            *(
                r"(_?pickle|cPickle|dill|cloudpickle|joblib|marshal|shelve)(\.|$)",
                r"multiprocessing\.reduction(?!\.(send|recv)_handle$)",
            ),
            *(r"pandas\.read_(pickle|hdf)", r"torch\.(load|jit\.load|hub|serialization|package)\b"),
            *(r"torch\.distributed\.checkpoint", r"torch\.utils\.model_zoo", r"(.*\.)?\w+_object(_list)?$"),
            *(r"numpy\.(load|lib\.npyio)\b", r"(.*\.)?(NpzFile|read_array)$"),
            # source, or the name of something, becomes what runs
            r"(builtins|runpy|code|codeop|pty|ctypes|hydra|omegaconf|logging\.config)(\.|$)",
            r"importlib(?!\.metadata\b|\.util\.find_spec$)(\.|$)",
            *(r"monai\.bundle", r"types\.(FunctionType|CodeType)", r"jinja2\.Template", r"(.*\.)?from_string$"),
            r"yaml\.(?!(CSafeLoader|compose|parse|safe_dump|\w*Node|\w+Event|(Marked)?YAMLError)$)",
            # other programs
            *(r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*|startfile)$", r"subprocess(\.|$)"),
            r"asyncio\.(subprocess|create_subprocess_\w+)",
        )
    )
)
PLACES = {  # what may stand where, and why
    "volssl/data/cache.py": {"pickle", "pickle.dumps", "pickle.loads"},  # own bytes, for its own loader processes
    "volssl/data/child.py": {"subprocess.DEVNULL", "subprocess.PIPE", "subprocess.Popen"},  # the process of codecs
    "volssl/data/archive.py": {"numpy.load", "numpy.lib.npyio.NpzFile"},
    "volssl/data/door.py": {"numpy.load"},
    "volssl/evaluation/bundle.py": {"monai.bundle.ConfigParser"},  # of what has just been written, to compare it
    "volssl/evaluation/export.py": {"torch.jit.load"},  # likewise
    "volssl/models/weights_file.py": {"torch.load", "torch.serialization.safe_globals"},
    "benchmarks/index.py": {"subprocess", "subprocess.DEVNULL", "subprocess.Popen"},  # the command, to measure it
    "benchmarks/memory.py": {"subprocess", "subprocess.run"},  # likewise
    "benchmarks/phantom_difficulty.py": {"numpy.load"},
    "benchmarks/reliability.py": {"subprocess", "subprocess.run"},  # the gates
}
BUILTINS = {"eval", "exec", "compile", "__import__", "__builtins__"}
SAFE = {"shell": False, "allow_pickle": False, "weights_only": True}  # the one value of a keyword, written out
NEEDED = {"numpy.load": "allow_pickle", "torch.load": "weights_only"}  # the default is not this, or not for ever


def executes(source: str, path: str = "") -> list[str]:
    """``line: what``. path: of the module in the repository."""
    tree = ast.parse(source)
    names = _imported(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = []
    for node in ast.walk(tree):
        for name in _named(node, names) if id(node) not in inner else ():
            passed_on = name in NEEDED and isinstance(node, ast.Name | ast.Attribute) and id(node) not in called
            if passed_on or (_dangerous(name) and name not in PLACES.get(path, set())):
                found.append(f"{node.lineno}: {name}")  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in _arguments(node, names)]
    return found


def _dangerous(name: str) -> bool:
    return name in BUILTINS or bool(DANGEROUS.match(name))


def _imported(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):  # ``import a.b`` gives a, ``import a.b as c`` a.b
            whole = {a.asname: a.name for a in node.names if a.asname}
            names |= whole | {first: first for a in node.names if not a.asname for first in [a.name.partition(".")[0]]}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def _named(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """What a node names in full."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield _full(node, names)
    elif isinstance(node, ast.Call) and _full(node.func, names) == "getattr" and len(node.args) > 1:
        attribute = node.args[1]
        if isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
            yield f"{_full(node.args[0], names)}.{attribute.value}"


def _full(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full(node.value, names)}.{node.attr}"
    own = isinstance(node, ast.Name) and node.id not in names and node.id not in (*BUILTINS, "getattr")
    return "?" if own or not isinstance(node, ast.Name) else names.get(node.id, node.id)


def _arguments(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    given = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else None for k in node.keywords if k.arg}
    for key, value in given.items():
        if key in SAFE and value is not SAFE[key]:
            yield f"{key} is not {SAFE[key]}"
    called = _full(node.func, names)
    if called in NEEDED and NEEDED[called] not in given:
        yield f"{called} without {NEEDED[called]}={SAFE[NEEDED[called]]}"
