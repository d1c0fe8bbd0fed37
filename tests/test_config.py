"""The Run schema: what is read, what every fault says, overrides, and what may differ on a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from volssl import config
from volssl.data.mixture_config import MixtureConfig
from volssl.errors import ConfigError
from volssl.evaluation import ACLTearConfig
from volssl.methods import BYOLConfig

GOOD = """\
output: runs/x
data: {name: stack, root: stacks}
views: {size: [8, 32, 32], crop: [0.5, 1.0], noise: [0.0, 0.05], blur: [0.8, 2.0]}
backbone:
  name: resnet
  dims: 3
  depth: 10
method: {name: byol, momentum: [0.99, 1.0]}
optim: {name: lars, lr: 0.2, weight_decay: 1.5e-6, warmup: 2}
loop: {steps: 10, batch: 8, chunk: 2}
"""
MIXED = GOOD.replace(
    "{name: stack, root: stacks}", "{name: mixture, parts: [{name: stack, root: a}, {name: volume, root: b}]}"
).replace("loop: ", "evaluate: [{name: acl_tear, part: 0}]\nloop: ")


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def faults(path: Path, text: str, *overrides: str, world: int = 1) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as e:
        config.load(path, overrides, world=world)
    return str(e.value).replace(f"{path}", "c.yaml").splitlines()


def test_a_good_configuration_reads_and_comes_back_the_same(write: Path, tmp_path: Path) -> None:
    write.write_text(GOOD)
    run = config.load(write)
    assert run.optim.weight_decay == 1.5e-6
    assert isinstance(run.method, BYOLConfig)
    assert run.method.momentum == (0.99, 1.0)
    again = tmp_path / "again.yaml"
    again.write_text(config.dump(run))
    assert config.load(again) == run


def test_a_weight_decay_is_one_number_or_two(write: Path, tmp_path: Path) -> None:
    write.write_text(GOOD)
    run = config.load(write, ["optim.weight_decay=[0.04, 0.4]"])
    assert run.optim.weight_decay == (0.04, 0.4)
    again = tmp_path / "again.yaml"
    again.write_text(config.dump(run))
    assert config.load(again) == run
    assert config.differences(config.load(write), run) == ["optim.weight_decay: 1.5e-06 -> [0.04, 0.4]"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dims: 3", "dims: 5", "c.yaml:6:3: backbone.dims: Input should be 2 or 3 (got 5)"),
        ("momentum:", "momentun:", "c.yaml:8:22: method.momentun: no such key: did you mean momentum?"),
        ("output: runs/x", "putput: runs/x", "c.yaml:1:1: putput: no such key: did you mean output?"),
        ("lr: 0.2", "lr: yes", "c.yaml:9:21: optim.lr: Input should be a valid number (got 'yes')"),
        (
            "decay: 1.5e-6",
            "decay: -1",
            "c.yaml:9:30: optim.weight_decay: Input should be greater than or equal to 0 (got -1)",
        ),
        ("lr: 0.2", "lr: true", "c.yaml:9:21: optim.lr: Input should be a valid number (got True)"),
        ("lr: 0.2", "lr: -1", "c.yaml:9:21: optim.lr: Input should be greater than 0 (got -1)"),
        ("name: lars", "name: lion", "c.yaml:9:1: optim: name: no lion: there is lars, adamw, sgd"),
        ("name: lars, ", "", "c.yaml:9:1: optim: name is missing: say which one it is"),
        ("steps: 10", "steps: 2.5", "c.yaml:10:8: loop.steps: Input should be a valid integer (got 2.5)"),
        ("steps: 10, ", "", "c.yaml:10:1: loop.steps: is missing: write it"),
        (
            "[0.99, 1.0]",
            "[0.99, 1.5]",
            "c.yaml:8:39: method.momentum.1: Input should be less than or equal to 1 (got 1.5)",
        ),
        ("chunk: 2", "chunk: 3", "c.yaml:10:29: loop.chunk: 3 does not divide loop.batch 8: use 2 or 4"),
        (
            "warmup: 2",
            "warmup: 10",
            "c.yaml:9:52: optim.warmup: 10 steps of warm-up in a run of 10: make it shorter",
        ),
        (
            "batch: 8, chunk: 2",
            "batch: 1, chunk: 1",
            "c.yaml:10:19: loop.batch: 1 leaves byol nothing to compare an item with: use 2 or more",
        ),
        (
            "[8, 32, 32], crop",
            "[8, 16, 16], local: {count: 2, size: [8, 8, 8], crop: [0.1, 0.2]}, crop",
            "c.yaml:3:28: views.local: byol uses no small views: take it out",
        ),
        ("dims: 3", "dims: 2", "c.yaml:6:3: backbone.dims: 2 does not fit 3D data (stack): use 3"),
    ],
)
def test_one_line_names_place_key_value_and_remedy(write: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert message in faults(write, GOOD.replace(old, new, 1))


@pytest.mark.parametrize("setting", ["stain", "p.grey"])
def test_colour_operations_need_colours(write: Path, setting: str) -> None:
    override = "views.stain=[0.7, 1.4]" if setting == "stain" else "views.p.grey=0.2"
    (line,) = faults(write, GOOD, override)
    assert f"views.{setting}: changes colours, and stack has 1 channel(s): take it out, or use data.colour: rgb" in line
    flat = ["data={name: image, root: a, colour: rgb}", "views={size: [32, 32]}", "backbone.dims=2", override]
    write.write_text(GOOD)
    assert config.load(write, flat).views.colour() == setting


def test_every_fault_is_told_at_once(write: Path) -> None:
    text = GOOD.replace("dims: 3", "dims: 9").replace("lr: 0.2", "lr: -1").replace("steps: 10", "stepz: 10")
    assert len(faults(write, text)) == 4  # dims, lr, stepz unknown, steps missing


def test_a_view_larger_than_the_region_is_refused(write: Path) -> None:
    text = GOOD.replace("root: stacks}", "root: stacks, region: [8, 30, 32]}")
    (line,) = faults(write, text)
    assert line.startswith("c.yaml:3:9: views.size: ")
    assert "30" in line


def test_a_norm_over_a_single_number_is_refused(write: Path) -> None:
    """ResNet-10 halves 8 x 32 x 32 five times, to 1 x 1 x 1: one number per item and channel."""
    assert "batch norm would see one number" in faults(write, GOOD, "loop.chunk=1")[0]
    assert "instance norm would see one number" in faults(write, GOOD, "backbone.norm=instance")[0]
    write.write_text(GOOD)
    assert config.load(write, ["loop.chunk=1", "backbone.norm=group"]).loop.chunk == 1


def test_the_batch_divides_over_ranks(write: Path) -> None:
    assert "use a multiple of 3" in faults(write, GOOD, world=3)[0]
    assert "the 2 items of each of 4 ranks: use 1 or 2" in faults(write, GOOD, "loop.chunk=4", world=4)[0]


def test_overrides_are_yaml_and_replace_a_whole_component(write: Path) -> None:
    write.write_text(GOOD)
    run = config.load(write, ["loop.steps=20", "optim.lr=1e-3", "data={name: volume, root: scans}", "seed=7"])
    assert (run.loop.steps, run.optim.lr, run.data.name, run.data.root, run.seed) == (
        20,
        1e-3,
        "volume",
        "scans",
        7,
    )


def test_an_override_reaches_into_a_list(write: Path) -> None:
    write.write_text(MIXED)
    run = config.load(write, ["data.parts.1.root=c", "evaluate.0.planes=[axial]"])
    assert isinstance(run.data, MixtureConfig)
    assert isinstance(run.evaluate[0], ACLTearConfig)
    assert ([part.root for part in run.data.parts], run.evaluate[0].planes) == (["a", "c"], ("axial",))
    assert config.differences(config.load(write), run) == ["data.parts.1.root: b -> c"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.parts.2.root=c", "data.parts.2.root=c: 2 is no entry of a list of 2: the first is 0"),
        ("data.parts.one=3", "data.parts.one=3: one is no entry of a list of 2: the first is 0"),
        ("data.parts.1.root.x=2", "data.parts.1.root.x=2: root is a value, not a group of keys"),
        ("data.parts.1.rot=c", "c.yaml:2:55: data.parts.1.rot: no such key: did you mean root?"),
        ("evaluate.0.plains=c", "evaluate.0.plains: no such key: did you mean planes?"),
        ("data.balance=evn", "data.balance: Input should be 'even' or 'proportional' (got 'evn')"),
        ("data.balance=[0, 1]", "data.balance.0: Input should be greater than or equal to 1 (got 0)"),
        ("evaluate.0.part=null", "evaluate.0.part: is missing: write as which of the parts 0 to 1 it is prepared"),
        ("evaluate.0.part=2", "evaluate.0.part: 2 does not exist, data has the parts 0 to 1: use one"),
        ("data={name: stack, root: a}", "evaluate.0.part: 0 does not exist, data has no parts: leave it out"),
        (
            "method={name: hybrid, ssl: {name: simclr}, classes: [2]}",
            "method.classes: 1 sets of labels, but there is one for each of the 2 parts of data: give 2, "
            "with 0 for a part without labels",
        ),
        ("data.parts.1={name: mixture}", "data.parts.1: name: no mixture: there is volume, stack"),
        ("evaluate={name: evaluate}", "evaluate: write a list, such as [{name: evaluate}]"),
        ("evaluate=acl_tear", "evaluate: write a list, such as [{name: acl_tear}] (got 'acl_tear')"),
        (
            "evaluate.0=acl_tear",
            "evaluate.0: write keys and values, such as {name: acl_tear} (got 'acl_tear')",
        ),
        ("evaluate.0.fractions=0.5", "evaluate.0.fractions: write a list, such as [0.5] (got 0.5)"),
        ("views.crop=0.3", "views.crop: write a list, such as [0.3, 0.3] (got 0.3)"),
    ],
)
def test_a_wrong_entry_of_a_list_is_one_line(write: Path, override: str, message: str) -> None:
    assert message in "\n".join(faults(write, MIXED, override))


@pytest.mark.parametrize(
    ("method", "key", "message"),
    [
        ("{name: swav, freeze: 10}", "freeze", "10 steps of a run of 10: the prototypes would never move"),
        ("{name: swav, queue_start: 11}", "queue_start", "11 steps of a run of 10: the queue would never be used"),
        ("{name: dino, freeze: 10}", "freeze", "10 steps of a run of 10: the last layer would never move"),
        (
            "{name: dino, teacher_warmup: 11}",
            "teacher_warmup",
            "11 steps of a run of 10: the teacher's temperature would never reach its last value",
        ),
    ],
)
def test_schedules_end_before_the_run(write: Path, method: str, key: str, message: str) -> None:
    """Alone and inside hybrid; what is a step shorter is taken, and so is a queue of nothing."""
    assert faults(write, GOOD, f"method={method}") == [f"c.yaml: method.{key}: {message}: make it shorter"]
    hybrid = f"method={{name: hybrid, ssl: {method}, classes: [2]}}"
    assert faults(write, GOOD, hybrid) == [f"c.yaml: method.ssl.{key}: {message}: make it shorter"]
    write.write_text(GOOD)
    assert config.load(write, [f"method={method}", f"method.{key}=9"])
    assert config.load(write, ["method={name: swav, queue: 0, queue_start: 99}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method.projector=[8]",), "method.projector: 1 number given: give 2"),
        (("method.projector=[]",), "method.projector: 0 numbers given: give 2"),
        (("method.projector=[8, 8, 8]",), "method.projector: 3 numbers given: give 2"),
        (
            ("method.projector=[16, 8]", "method.predictor=[16, 4]"),
            "method: predictor must end in the 8 numbers that projector ends in (got 4): use predictor: [16, 8]",
        ),
        (
            ("method={name: mae, width: 9, heads: 2}",),
            "method: width 9 does not divide over 2 heads: use a multiple",
        ),
        (
            ("method={name: hybrid, ssl: {name: mae, width: 9, heads: 2}, classes: [2]}",),
            "method.ssl: width 9 does not divide over 2 heads: use a multiple",
        ),
        (
            ("method={name: hybrid, ssl: {name: simclr}, classes: [1]}",),
            "method.classes.0: one class tells no item from another: use 2 or more, or 0 where there are no labels",
        ),
        (
            ("method={name: hybrid, ssl: {name: simclr}, classes: [0]}",),
            "method: classes are 0 in every part, so there is nothing to learn from labels: use ssl alone",
        ),
        (
            ("method={name: cass, partner: {name: vit, patch: [4, 4], size: [8, 32, 32]}}",),
            "method.partner: patch [4, 4] has 2 numbers: give 3, one per axis",
        ),
    ],
)
def test_a_fault_names_a_key_that_is_there_and_nothing_follows_from_it(
    write: Path, overrides: tuple[str, ...], message: str
) -> None:
    (line,) = faults(write, GOOD, *overrides)
    assert line.split(": ", 1)[1] == message


def test_what_a_hybrid_s_method_refuses_is_named_inside_it(write: Path) -> None:
    flat = ["data={name: image, root: a}", "views={size: [32, 32], count: 1}"]
    vit = "backbone={name: vit, dims: 2, patch: [8, 8], size: [32, 32]}"
    hybrid = "method={name: hybrid, ssl: {name: mae, tube: true}, classes: [2]}"
    (line,) = faults(write, GOOD, *flat, vit, hybrid)
    assert "method.ssl.tube: flat images have no slices or frames to hide a tube in: use false" in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.stepz=3", "c.yaml:10:1: loop.stepz: no such key: did you mean steps?"),
        ("loop.steps", "loop.steps: an override is key=value, for example loop.steps=100"),
        ("data.\u00b2=1", "data.\u00b2: no such key"),
        (f"views.size.{'9' * 5000}=1", "is no entry of a list of 3"),
        ("output=\udcfc", "output: not UTF-8"),
        ("seed.x=3", "c.yaml: seed: Input should be a valid integer"),
        ("output.x=3", "output.x=3: output is a value, not a group of keys"),
        ("loop.steps=[1", "loop.steps:2:1: not YAML"),
    ],
)
def test_a_wrong_override_is_one_line(write: Path, override: str, message: str) -> None:
    assert message in "\n".join(faults(write, GOOD, override))


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words"])
def test_no_mapping_is_no_configuration(write: Path, text: str) -> None:
    assert "the top level must be keys" in faults(write, text)[0]


def test_a_missing_file_a_folder_and_a_binary(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for name, message in [
        ("no.yaml", "no such file"),
        (".", "is a directory"),
        ("b.yaml", "not a text file"),
    ]:
        with pytest.raises(ConfigError, match=message):
            config.load(tmp_path / name)


def test_differences_name_what_must_not_change_on_a_resume(write: Path) -> None:
    write.write_text(GOOD)
    run = config.load(write)
    assert config.differences(run, config.load(write, ["loop.workers=4", "loop.save_every=7", "data.cache=c"])) == []
    assert config.differences(run, config.load(write, ["optim.lr=0.3", "seed=1"])) == [
        "optim.lr: 0.2 -> 0.3",
        "seed: 0 -> 1",
    ]
