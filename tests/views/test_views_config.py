"""The views' configuration: what parses, what is refused, and what follows from it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from volssl.views import LocalConfig, ViewsConfig

SIZE = (16, 224, 224)
LOCAL = {"count": 1, "size": [8, 8], "crop": [0.1, 0.2]}


def parse(**given: Any) -> ViewsConfig:
    return ViewsConfig.model_validate_json(json.dumps({"size": SIZE} | given))


def test_the_published_example_parses() -> None:
    config = parse(crop=[0.5, 1.0], noise=[0.0, 0.05], blur=[0.8, 2.0])
    assert (config.size, config.crop, config.count) == (SIZE, (0.5, 1.0), 2)
    assert (config.noise, config.blur, config.blur_slices) == ((0.0, 0.05), (0.8, 2.0), (0.0, 0.0))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"crop": [1.0, 0.5]}, "swap the two"),
        ({"crop": [0.0, 1.0]}, "greater than 0"),
        ({"crop": [True, 1.0]}, "valid number"),
        ({"crop": 0.5}, "valid array"),
        ({"noise": [0.0, -1.0]}, "greater than or equal to 0"),
        ({"histogram": [0.0, 1.5]}, "less than or equal to 1"),
        ({"hue": [-0.6, 0.1]}, "greater than or equal to -0.5"),
        ({"stain": [0.0, 1.0]}, "greater than 0"),
        ({"p": {"blur": 1.5}}, "less than or equal to 1"),
        ({"p": {"crop": 1.0}}, "Extra inputs"),
        ({"size": [64]}, "rows x columns"),
        ({"size": [64, 64], "flip": [2]}, "are 0 to 1"),
        ({"size": [64, 64], "tilt": [0, 5]}, "take tilt out"),
        ({"size": [64, 64], "local": LOCAL | {"slices": [0.5, 1]}}, "take local.slices"),
        ({"voxel": [1, 1]}, "give 3"),
        ({"local": LOCAL}, "local.size has 2"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        parse(**given)


def test_global_and_local_views_have_names_and_recipes() -> None:
    local = LocalConfig(count=2, size=(8, 96, 96), crop=(0.05, 0.2), slices=(0.5, 0.5))
    recipes = ViewsConfig(size=SIZE, crop=(0.5, 1.0), noise=(0.1, 0.1), local=local).recipes()
    assert list(recipes) == ["0", "1", "local0", "local1"]
    part = recipes["local1"]
    assert (part.size, part.crop, part.slices, part.noise) == ((8, 96, 96), (0.05, 0.2), (0.5, 0.5), (0.1, 0.1))


def test_the_region_is_the_largest_view_along_each_axis() -> None:
    local = LocalConfig(count=1, size=(32, 96, 96), crop=(0.1, 0.2))
    assert ViewsConfig(size=SIZE, local=local).default_region() == (32, 224, 224)
    assert ViewsConfig(size=(64, 48)).default_region() == (64, 48)


def test_a_view_larger_than_the_region_is_refused_in_one_line() -> None:
    config = ViewsConfig(size=SIZE)
    assert config.fits(SIZE) is None
    assert config.fits((20, 256, 256)) is None
    problem = config.fits((20, 192, 224))
    assert problem is not None
    assert "larger than data.region [20, 192, 224] in rows" in problem
    assert "use at most [16, 192, 224]" in problem
    assert "data.region [20, 224, 224]" in problem
    assert "\n" not in problem
    assert "differ in length" in (config.fits((224, 224)) or "")


def test_checking_a_configuration_loads_no_torch() -> None:
    code = "import sys, volssl.views as v; v.ViewsConfig(size=(8, 8)).fits((8, 8)); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
