"""What the settings of a study may not say together: a name shown twice, or an option that would be lost."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volssl.evaluation import ProtocolConfig, SetConfig, StudyConfig

RANDOM, PIXELS = "random", "pixels"  # the floors; ``random NAME`` where encoders of several shapes each have one
DVME, CONCATENATION = "DVME", "concatenation"
MASKS, VOXELS = "masks", "voxels"


def percent(share: float) -> str:
    """What a table calls a share of the labels."""
    return f"{100 * share:g} %"


def faults(config: StudyConfig) -> Iterator[str]:
    """A line each: the key, what is wrong, and what to do."""
    yield from _shown_twice(config)
    for name, one in config.sets.items():
        if told := name_fault(config.encoders, one.encoders):
            yield f"sets.{name}.{told}"
        if told := _idle(config, one):
            yield f"sets.{name}: {told}"
    yield from _no_peers(config)
    yield from _nothing_swept(config)


def name_fault(shared: Collection[str], own: Collection[str], given: Collection[str] = ()) -> str | None:
    """Of encoders of all sets, of one set, and of those in memory: a name that is there twice, or is taken."""
    named = {*shared, *own}
    if twice := (named & {*given}) | ({*shared} & {*own}):
        return f"encoders: {min(twice)} is named twice: give each encoder a name of its own"
    if not all(name.strip() for name in named):
        return "encoders: one has no name: give it one"
    if taken := [name for name in sorted(named) if name == PIXELS or name.split()[0] == RANDOM]:
        return f"encoders: {taken[0]} is the name of a floor: give another"
    if taken := [name for name in sorted(named) if name.split()[0].strip(",") in (DVME, CONCATENATION)]:
        return f"encoders: {taken[0]} is the name of a fusion: give another"
    return None


def fusion_faults(config: StudyConfig, given: Collection[str] = ()) -> Iterator[str]:
    """As ``faults``, once it is known which encoders are ``given`` in memory."""
    all_of = {name: [*given, *config.encoders, *one.encoders] for name, one in config.sets.items()}
    known = list(dict.fromkeys(encoder for names in all_of.values() for encoder in names))
    for i, fusion in enumerate(config.fusion):
        if unknown := [name for name in fusion.encoders if name not in known]:
            have = f"but {', '.join(known)}" if known else "nor any other"
            yield f"fusion.{i}.encoders: there is no encoder {unknown[0]} {have}: name those that there are"
        elif twice := _twice(fusion.encoders):
            yield f"fusion.{i}.encoders: {twice} is named twice: name each once"
        elif max((_count(fusion.encoders, all_of[name]) for name in _without_masks(config)), default=2) < 2:
            yield f"fusion.{i}: no set has two of its encoders, and one is not fused: give more, or leave it out"


def _shown_twice(config: StudyConfig) -> Iterator[str]:
    if twice := _twice([protocol.shown for protocol in config.protocols]):
        yield f"protocols: two are called {twice}: give one a title, such as title: another {twice}"
    if twice := _twice([percent(share) for share in config.fractions]):
        yield f"fractions {list(config.fractions)} has two that are {twice}: leave one"


def _idle(config: StudyConfig, one: SetConfig) -> str | None:
    """Why no protocol is one for this set."""
    if any(_fits(protocol, config, one) for protocol in config.protocols):
        return None
    asked = ", ".join(protocol.shown for protocol in config.protocols)
    if one.target.name == MASKS:
        return f"none of protocols ({asked}) is one for masks: add {{name: {VOXELS}}}"
    if all(protocol.name == VOXELS for protocol in config.protocols):
        return f"{VOXELS}, the only one of protocols, is for masks: add knn, linear or finetune"
    return f"raw pixels cannot be fitted by any of protocols ({asked}): add knn or linear, or name encoders"


def _fits(protocol: ProtocolConfig, config: StudyConfig, one: SetConfig) -> bool:
    """Encoders in memory are known later: with ``every`` or in a run there is one."""
    if (one.target.name == MASKS) != (protocol.name == VOXELS):
        return False
    return protocol.name != "finetune" or config.has_encoders(one)


def _no_peers(config: StudyConfig) -> Iterator[str]:
    """A fusion stands in the table of its like."""
    if not _without_masks(config):
        return
    for i, fusion in enumerate(config.fusion):
        if fusion.end_to_end and full_tuning(config.protocols) is None:
            what = "end_to_end trains the encoders, and no other is fine-tuned to compare it with"
            yield f"fusion.{i}: {what}: add {{name: finetune}} to protocols"
        elif not fusion.end_to_end and probing(config.protocols) is None:
            yield f"fusion.{i}: is compared with linear probes, and there are none: add {{name: linear}} to protocols"


def _nothing_swept(config: StudyConfig) -> Iterator[str]:
    """What is asked for beside the table, of a study in which nobody could be asked."""
    some = _without_masks(config).values()
    if config.robustness and some and not any(one.name in ("linear", "finetune") for one in config.protocols):
        yield "robustness: is of linear probes and fine-tuned networks: add {name: linear} to protocols"
    if config.convergence and some and not any(config.has_encoders(one) for one in some):
        yield "convergence: compares pre-trained encoders with ones from scratch: name encoders, or leave it out"


def full_tuning(protocols: Sequence[ProtocolConfig]) -> ProtocolConfig | None:
    """The first that fine-tunes whole networks."""
    return next((one for one in protocols if one.name == "finetune" and one.layers == "all"), None)


def probing(protocols: Sequence[ProtocolConfig]) -> ProtocolConfig | None:
    """The first linear probe."""
    return next((one for one in protocols if one.name == "linear"), None)


def _without_masks(config: StudyConfig) -> Mapping[str, SetConfig]:
    return {name: one for name, one in config.sets.items() if one.target.name != MASKS}


def _count(wanted: Sequence[str], there: Sequence[str]) -> int:
    """Of those that are there, how many are fused: all where none is named."""
    return sum(not wanted or name in wanted for name in there)


def _twice(names: Sequence[str]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
