"""Who competes on a data set: encoders of runs, published weights, and the floors that all of them must beat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from volssl.data import Sources, StackConfig
from volssl.data.image_config import ImageConfig
from volssl.data.mixture_config import MixtureConfig
from volssl.errors import ConfigError, DataError
from volssl.evaluation import EncoderConfig, LabelsConfig, SetConfig
from volssl.evaluation.card import CARD, Card
from volssl.evaluation.encoder import Encoder, build_network, load_encoder, random_encoder
from volssl.evaluation.foresight import at_key
from volssl.evaluation.rules import PIXELS, RANDOM, name_fault
from volssl.models import BackboneConfig
from volssl.models.weights import load_weights
from volssl.names import typed

PUBLISHED = "published"
WHICH = {"root", "cache", "cache_gb", "split", "max_bad", "label_column"}  # items there are, not how they are prepared


@dataclass(frozen=True, slots=True)
class Contestant:
    """An encoder under its name.

    card: how its images are prepared. build: the encoder of a seed; None for raw pixels. drawn: whether each seed has
    one of its own. floor: whether it is there for the others to beat. folder: of the encoder whose weights it has, if
    they were trained here.
    """

    name: str
    card: Card
    build: Callable[[int], Encoder] | None
    drawn: bool = False
    floor: bool = False
    folder: Path | None = None

    @property
    def key(self) -> str:
        """What its numbers depend on, the seed apart."""
        what = self.card.model_dump(mode="json", exclude={"versions", "step", "seed"})
        return json.dumps([PIXELS if self.build is None else RANDOM if self.drawn else self.card.sha256, what])


def contestants(
    config: SetConfig,
    shared: Mapping[str, EncoderConfig],
    given: Mapping[str, Encoder],
    floors: tuple[str, ...],
    where: str,
) -> tuple[Contestant, ...]:
    """Everybody on this set: those ``given`` in memory, those of all sets, its own, then the floors.

    A random encoder stands beside each shape and preprocessing there is, under ``random`` where there is one and
    ``random NAME`` of the first encoder of its shape where there are several. Raw pixels are prepared as for the first.

    Raises:
        DataError: an encoder cannot be loaded, or takes images of another dimension or number of channels.
        ConfigError: a name is given twice, or weights do not fit.
    """
    if told := name_fault(shared, config.encoders, given):
        raise ConfigError(f"{where}.{told}")
    named = {**shared, **config.encoders}
    found = [Contestant(name, one.card, _always(one)) for name, one in given.items()]
    at = {name: f"{where}.encoders.{name}" if name in config.encoders else f"encoders.{name}" for name in named}
    found += [_opened(name, encoder, config, at[name]) for name, encoder in named.items()]
    for one in found:
        _check_dims(one, config, where)
    return (*found, *_floors(found, config, floors))


def floor_of(one: Contestant, everybody: tuple[Contestant, ...]) -> str | None:
    """The random encoder that has its shape and preprocessing, by name."""
    own = _shape(one.card)
    return next((other.name for other in everybody if other.floor and other.build and _shape(other.card) == own), None)


def _opened(name: str, config: EncoderConfig, where: SetConfig, key: str) -> Contestant:
    if config.path is not None:
        try:
            encoder = load_encoder(config.path)
        except DataError as error:
            raise at_key(error, key) from None
        if config.part is not None:
            encoder = Encoder(encoder.network, encoder.card.part(config.part)).eval()
        return Contestant(name, encoder.card, _always(encoder), folder=Path(config.path))
    card = _card(config, where, key)
    if card.method == RANDOM:
        return Contestant(name, card, _random(card), drawn=True)
    network = build_network(card, seed=0)
    try:
        load_weights(network, config.backbone, card.channels)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{key}.backbone.weights: {error}") from error
    digest = hashlib.sha256(safetensors.torch.save(network.state_dict())).hexdigest()
    card = card.model_copy(update={"sha256": digest})
    return Contestant(name, card, _always(Encoder(network, card).eval()), folder=_own(config.backbone))


def _own(backbone: BackboneConfig | None) -> Path | None:
    """The folder of the encoder that a backbone takes its weights from: its path, or that of a file in it."""
    if backbone is None or backbone.weights is None:
        return None
    path = Path(backbone.weights.path)
    return next((folder for folder in (path, path.parent) if (folder / CARD).is_file()), None)


def _card(config: EncoderConfig, where: SetConfig, key: str) -> Card:
    """Of a backbone that is fed as the set's ``data`` says."""
    region = where.data.region or config.size
    assert config.backbone is not None
    if region is None:
        raise ConfigError(f"{key}.size: is missing, and so is the set's data.region: give one of them")
    size = config.size or region
    if problem := config.backbone.fits(size):
        raise ConfigError(f"{key}.size: {problem}")
    return Card(
        backbone=config.backbone,
        channels=where.data.channels,
        region=region,
        size=size,
        data=where.data,
        method=PUBLISHED if config.backbone.weights else RANDOM,
        step=0,
        seed=0,
    )


def _check_dims(one: Contestant, config: SetConfig, where: str) -> None:
    if one.card.dims != config.data.dims:
        what = f"{one.name} takes {one.card.dims}D images, and these are {config.data.dims}D ({config.data.name})"
        raise DataError("encoder", f"{what}: give it to another set", typed(f"{where}.encoders"))


def _floors(found: list[Contestant], config: SetConfig, floors: tuple[str, ...]) -> Iterator[Contestant]:
    cards = {_shape(one.card): one.card for one in reversed(found)}  # the first of each shape
    first = {_shape(one.card): one.name for one in reversed(found)}
    if RANDOM in floors:
        for shape, card in reversed(cards.items()):
            name = RANDOM if len(cards) == 1 else f"{RANDOM} {first[shape]}"
            build = _random(card)
            yield Contestant(name, card.model_copy(update={"method": RANDOM}), build, drawn=True, floor=True)
    if PIXELS in floors:
        card = found[0].card if found else _pixel_card(config)
        yield Contestant(PIXELS, card, None, floor=True)


def _always(encoder: Encoder) -> Callable[[int], Encoder]:
    return lambda _seed: encoder


def _random(card: Card) -> Callable[[int], Encoder]:
    return lambda seed: random_encoder(card, seed)


def _pixel_card(config: SetConfig) -> Card:
    """Of a set without encoders: its images as ``data`` says; the backbone is never built."""
    from volssl.models import ResNetConfig

    region = config.data.region
    if region is None:
        raise ConfigError("sets: a set without encoders needs data.region, the size of its raw pixels")
    dims = config.data.dims
    backbone = ResNetConfig(dims=2 if dims == 2 else 3, depth=10, stem="small")
    data = config.data
    return Card(
        backbone=backbone, channels=data.channels, region=region, size=region, data=data, method="none", step=0, seed=0
    )


def _shape(card: Card) -> str:
    """What a random encoder would have to share."""
    kept = card.model_dump(mode="json", include={"backbone", "channels", "region", "size"})
    return json.dumps([kept, card.preprocessing.model_dump(mode="json", exclude=WHICH)], sort_keys=True)


def prepared_alike(one: Card, other: Card) -> bool:
    """Whether an image of the one may be an image of the other, bit for bit."""
    return not _recipes(one).isdisjoint(_recipes(other))


def _recipes(card: Card) -> set[str]:
    """How the items of each of its data sets are prepared."""
    parts = card.data.parts if isinstance(card.data, MixtureConfig) else (card.data,)
    return {json.dumps([card.region, part.model_dump(mode="json", exclude=WHICH)], sort_keys=True) for part in parts}


def source_config(card: Card, config: SetConfig, cache: str) -> Sources:
    """The set's data, prepared as the card says: a configuration that builds the source.

    Raises:
        DataError: the card's preprocessing cannot read such data.
    """
    data = config.data
    if isinstance(data, ImageConfig):
        made: Sources = card.pictures(data.root, cache)
    elif isinstance(data, StackConfig):
        made = card.stacks(data.root, cache)
    else:
        made = card.source(data.root, cache)
    update: dict[str, object] = {}
    if "max_bad" in data.model_fields_set:
        update["max_bad"] = data.max_bad
    if isinstance(data, ImageConfig) and data.label_column is not None:
        update["label_column"] = data.label_column
    elif isinstance(data, ImageConfig) and data.archive and isinstance(config.target, LabelsConfig):
        update["label_column"] = 0  # any: the target has them all
    return made.model_copy(update=update)
