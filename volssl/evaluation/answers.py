"""What each contestant answers on one data set: features once, then every protocol, label budget and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volssl.errors import DataError
from volssl.evaluation import FinetuneConfig, FusionConfig, KNNConfig, LinearConfig, ProtocolConfig, VoxelsConfig
from volssl.evaluation.chained import Chained
from volssl.evaluation.contestants import Contestant
from volssl.evaluation.features import extract
from volssl.evaluation.finetune import tune
from volssl.evaluation.fusion import Fused, concatenate, fuse, fuse_end_to_end
from volssl.evaluation.hypercolumns import Hypercolumns, encoder_maps, pixel_maps
from volssl.evaluation.knn import knn
from volssl.evaluation.labelled import Budget, LabelledSet, Part
from volssl.evaluation.ledger import Ledger
from volssl.evaluation.linear import linear
from volssl.evaluation.mrnet import Rows
from volssl.evaluation.pixels import raw_pixels
from volssl.evaluation.robustness import Perturbed, Strength, coloured, features_under, perturbed
from volssl.evaluation.target import Floats, Ints, Predicted, join
from volssl.evaluation.voxels import segmentation_dice
from volssl.names import private
from volssl.types import Source

ANSWER = ("score", "probability", "called")
BATCH = 64  # items whose features are computed at once


@dataclass
class Answers:
    """Everything is worked out when it is asked for, and once.

    seed: of what all seeds of the study share. report: gets a line on what is being done.
    """

    data: LabelledSet
    ledger: Ledger
    seed: int
    device: str | torch.device
    report: Callable[[str], None]
    _maps: tuple[tuple[str, int], Hypercolumns] | None = None

    def features(self, one: Contestant, seed: int) -> Floats:
        """(N, D) of every row of the set."""
        source = self.data.source(one.card)

        def make() -> Mapping[str, NDArray[Any]]:
            self.report(f"{self.data.name}: features of {one.name}")
            if one.build is None:
                return {"x": raw_pixels(source, one.card.size)}
            return {"x": extract(one.build(seed), source, batch=BATCH, device=self.device)}

        key = [*_who(one, seed), self.data.items_key(one.card), "features"]
        found = self.ledger.recall(key, make)["x"]
        if not np.isfinite(found).all():
            item = source.ids[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
            raise DataError(
                "non_finite", f"{one.name} gives NaN or infinity, of {private(item)} first", f"sets.{self.data.name}"
            )
        return found[self.data.rows].astype(np.float64)

    def predicted(
        self, one: Contestant, protocol: KNNConfig | LinearConfig | FinetuneConfig, budget: Budget, seed: int
    ) -> Predicted:
        """What it says of all M test rows."""
        return self._joined([self._of_part(one, protocol, i, budget, seed) for i in range(len(self.data.parts))])

    def concatenated(self, several: Mapping[str, Contestant], budget: Budget, seed: int) -> Predicted:
        """A linear probe of several encoders' features side by side: what a fusion must beat."""
        x = concatenate({name: self.features(one, seed) for name, one in several.items()})
        keys = [self._key(one, seed) for one in several.values()]

        def of(part: Part) -> Callable[[Ints], Predicted]:
            return lambda rows: self._linear(x, rows, x[part.test])

        parts = enumerate(self.data.parts)
        return self._joined([self._kept([keys, "concatenated"], i, budget, seed, of(part)) for i, part in parts])

    def fused(
        self, several: Mapping[str, Contestant], config: FusionConfig, budget: Budget, seed: int
    ) -> tuple[Predicted, dict[str, float], dict[str, float]]:
        """What the fusion says of all test rows; of each encoder, its weight and what is lost without it."""
        parts = [self._fused(several, config, i, budget, seed) for i in range(len(self.data.parts))]
        mean = [{n: float(np.mean([getattr(p, what)[n] for p in parts])) for n in several} for what in WEIGHTS]
        return self._joined([part.predicted for part in parts]), mean[0], mean[1]

    def dice(self, one: Contestant, protocol: VoxelsConfig, budget: Budget, seed: int) -> Floats:
        """(M, K): Dice of each class in each test volume, in the order of ``data.test``."""
        parts = [self._segmented(one, protocol, i, budget, seed) for i in range(len(self.data.parts))]
        found = np.concatenate(parts)
        return found[np.argsort(np.concatenate([part.test for part in self.data.parts]), kind="stable")]

    def under(
        self,
        one: Contestant,
        protocol: LinearConfig | FinetuneConfig,
        budget: Budget,
        seed: int,
        wanted: Sequence[Strength],
    ) -> list[Predicted]:
        """What a model that was fitted to clean images says of the test rows changed by each strength."""
        parts = [self._under(one, protocol, i, budget, seed, wanted) for i in range(len(self.data.parts))]
        return [self._joined([part[k] for part in parts]) for k in range(len(wanted))]

    def _under(
        self,
        one: Contestant,
        protocol: LinearConfig | FinetuneConfig,
        part: int,
        budget: Budget,
        seed: int,
        wanted: Sequence[Strength],
    ) -> list[Predicted]:
        strengths = [[strength.what, strength.value] for strength in wanted]
        test = self.data.parts[part].test

        def make(rows: Ints) -> Predicted:
            if isinstance(protocol, FinetuneConfig):
                return self._tuned(one, protocol, part, rows, seed, wanted)
            changed = np.concatenate([self._changed(one, part, seed, strength) for strength in wanted])
            return self._linear(self.features(one, seed), rows, changed)

        key = [self._key(one, seed), _asked(protocol), seed, strengths]
        return _cut(self._kept(key, part, budget, seed, make), len(test))

    def _changed(self, one: Contestant, part: int, seed: int, strength: Strength) -> Floats:
        """Features of the part's test rows, changed."""
        test = Rows(self.data.source(one.card), self.data.rows[self.data.parts[part].test])
        self.report(f"{self.data.name}: {strength.axis} {strength.value:g}, {one.name}")
        if one.build is not None:
            how = (strength.what, strength.value)
            x = features_under(one.build(seed), test, *how, seed=self.seed, batch=BATCH, device=self.device)
        else:
            x = raw_pixels(self._perturbed(one, test, strength), one.card.size)
        return x.astype(np.float64)

    def _perturbed(self, one: Contestant, source: Source, strength: Strength) -> Source:
        views = perturbed(one.card.size, strength.what, strength.value, joint=coloured(one.card))
        return Perturbed(source, views, self.seed)

    def _segmented(self, one: Contestant, protocol: VoxelsConfig, part: int, budget: Budget, seed: int) -> Floats:
        rows, test = self.data.chosen(part, budget, seed), self.data.parts[part].test

        def make() -> Mapping[str, NDArray[Any]]:
            found = segmentation_dice(
                self._columns(one, seed),
                self.data.masks_of(one.card),
                rows,
                test,
                patients=self.data.table.patients,
                classes=len(self.data.classes),
                voxels=protocol.voxels,
                seed=seed,
            )
            return {"dice": found}

        key = [self._key(one, seed), _asked(protocol), digest(rows), digest(test), seed]
        return self.ledger.recall(key, make)["dice"].astype(np.float64)

    def _columns(self, one: Contestant, seed: int) -> Hypercolumns:
        """Of the last encoder that was asked for: maps take memory."""
        name = (one.name, seed if one.drawn else 0)
        if self._maps is None or self._maps[0] != name:
            maps = pixel_maps if one.build is None else encoder_maps(self._network(one, seed))
            self._maps = name, Hypercolumns(maps, Rows(self.data.source(one.card), self.data.rows))
        return self._maps[1]

    def _fused(
        self, several: Mapping[str, Contestant], config: FusionConfig, part: int, budget: Budget, seed: int
    ) -> Fused:
        rows, test = self.data.chosen(part, budget, seed), self.data.parts[part].test
        names, target, patients = sorted(several), self.data.target.at(rows), self.data.table.patients[rows]

        def make() -> Mapping[str, NDArray[Any]]:
            self.report(f"{self.data.name}: fusion, {len(rows)} labels")
            if config.end_to_end:
                found = fuse_end_to_end(
                    {name: self._network(one, seed) for name, one in several.items()},
                    {name: self.data.source(one.card) for name, one in several.items()},
                    self.data.rows[rows],
                    target,
                    self.data.rows[test],
                    groups=patients,
                    config=config,
                    seed=seed,
                    device=self.device,
                )
            else:
                x = {name: self.features(one, seed) for name, one in several.items()}
                train, tested = ({n: v[side] for n, v in x.items()} for side in (rows, test))
                found = fuse(train, target, tested, groups=patients, config=config, seed=seed, device=self.device)
            shares = {what: np.array([getattr(found, what)[name] for name in names]) for what in WEIGHTS}
            return _packed(found.predicted) | shares

        keys = [self._key(several[name], seed) for name in names]
        kept = self.ledger.recall([keys, names, config.model_dump(mode="json"), digest(rows), digest(test), seed], make)
        weights, without = (dict(zip(names, kept[what].tolist(), strict=True)) for what in WEIGHTS)
        return Fused(_unpacked(kept), weights, without)

    def _of_part(
        self, one: Contestant, protocol: KNNConfig | LinearConfig | FinetuneConfig, part: int, budget: Budget, seed: int
    ) -> Predicted:
        key = [self._key(one, seed), _asked(protocol)]
        if isinstance(protocol, FinetuneConfig):
            return self._kept(
                [*key, seed], part, budget, seed, lambda rows: self._tuned(one, protocol, part, rows, seed)
            )
        if isinstance(protocol, KNNConfig):
            return self._kept(key, part, budget, seed, lambda rows: self._nearest(one, protocol, part, rows, seed))
        x, test = self.features(one, seed), self.data.parts[part].test
        return self._kept(key, part, budget, seed, lambda rows: self._linear(x, rows, x[test]))

    def _kept(
        self, key: list[Any], part: int, budget: Budget, seed: int, make: Callable[[Ints], Predicted]
    ) -> Predicted:
        rows = self.data.chosen(part, budget, seed)
        whole = [key, digest(rows), digest(self.data.parts[part].test), self.seed]
        return _unpacked(self.ledger.recall(whole, lambda: _packed(make(rows))))

    def _linear(self, x: Floats, rows: Ints, test_x: Floats) -> Predicted:
        target, patients = self.data.target.at(rows), self.data.table.patients[rows]
        return linear(x[rows], target, test_x, groups=patients, seed=self.seed)

    def _nearest(self, one: Contestant, protocol: KNNConfig, part: int, rows: Ints, seed: int) -> Predicted:
        x, test = self.features(one, seed), self.data.parts[part].test
        target, patients = self.data.target.at(rows), self.data.table.patients[rows]
        return knn(x[rows], target, x[test], groups=patients, k=protocol.k, temperature=protocol.temperature)

    def _tuned(
        self,
        one: Contestant,
        protocol: FinetuneConfig,
        part: int,
        rows: Ints,
        seed: int,
        wanted: Sequence[Strength] = (),
    ) -> Predicted:
        """Of the test rows, as they are or, one strength after another, changed."""
        self.report(f"{self.data.name}: fine-tuning {one.name}, {len(rows)} labels, seed {seed}")
        clean, test = self.data.source(one.card), self.data.rows[self.data.parts[part].test]
        changed = [self._perturbed(one, clean, strength) for strength in wanted]
        return tune(
            self._network(one, seed),
            Chained([clean, *changed]),
            self.data.rows[rows],
            self.data.target.at(rows),
            np.concatenate([test + (k + 1) * len(clean) for k in range(len(wanted))]) if wanted else test,
            groups=self.data.table.patients[rows],
            config=protocol,
            seed=seed,
            device=self.device,
        )

    def _network(self, one: Contestant, seed: int) -> Any:
        assert one.build is not None
        return one.build(seed)

    def _joined(self, parts: list[Predicted]) -> Predicted:
        """In the order of ``data.test``."""
        place = {row: i for i, row in enumerate(self.data.test.tolist())}
        at = [np.array([place[row] for row in part.test.tolist()]) for part in self.data.parts]
        return join(list(zip(at, parts, strict=True)), len(place))

    def _key(self, one: Contestant, seed: int) -> list[Any]:
        return [*_who(one, seed), self.data.key(one.card)]


def _asked(protocol: ProtocolConfig) -> dict[str, Any]:
    """What the answers depend on, which is not what it is called."""
    return protocol.model_dump(mode="json", exclude={"title"})


def _who(one: Contestant, seed: int) -> list[Any]:
    return [one.key, seed if one.drawn else None]


WEIGHTS = ("weights", "without")


def digest(rows: Ints) -> str:
    """What names some rows, for a key."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes()).hexdigest()[:16]


def fits(protocol: Any, one: Contestant, masks: bool) -> bool:
    """Whether the protocol is one for this target and this contestant: raw pixels cannot be fine-tuned."""
    if isinstance(protocol, VoxelsConfig) != masks:
        return False
    return one.build is not None or not isinstance(protocol, FinetuneConfig)


def _packed(predicted: Predicted) -> dict[str, NDArray[Any]]:
    arrays = {name: getattr(predicted, name) for name in ANSWER}
    return {name: np.asarray(array) for name, array in arrays.items() if array is not None}


def _cut(predicted: Predicted, rows: int) -> list[Predicted]:
    """One answer after another, of so many rows each."""
    whole = _packed(predicted)
    starts = range(0, len(predicted.score), rows)
    return [_unpacked({name: array[i : i + rows] for name, array in whole.items()}) for i in starts]


def _unpacked(arrays: Mapping[str, NDArray[Any]]) -> Predicted:
    return Predicted(arrays["score"], arrays.get("probability"), arrays.get("called"))
