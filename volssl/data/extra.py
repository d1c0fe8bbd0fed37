"""What comes with an extra of the package: said in one line where it is asked for and not installed (torch-free)."""

from __future__ import annotations

from importlib.util import find_spec

from volssl.errors import ConfigError


def need(module: str, extra: str, asked: str) -> None:
    """Nothing where ``module`` is installed.

    Raises:
        ConfigError: it is not. asked: the key and value that ask for it.
    """
    if find_spec(module) is None:
        raise ConfigError(f"{asked} needs the package {module}: pip install 'volssl[{extra}]'")
