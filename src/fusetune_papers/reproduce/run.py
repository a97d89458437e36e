"""Run the experiments of a data set under one recipe and collect what is to be printed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.split import PARTS, Rows
from fusetune.doctor.examine import examine_split
from fusetune.doctor.examined import Examined
from fusetune.doctor.findings import Finding
from fusetune.errors import WeightsError
from fusetune.evaluate.intervals import Interval, score_with_intervals
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune_papers.datasets.baselines import constant_accuracy, nearest_frame
from fusetune_papers.reproduce.bench import Alone, Bench
from fusetune_papers.reproduce.division import shared_groups
from fusetune_papers.reproduce.flaws import FLAWS, in_order
from fusetune_papers.reproduce.material import PLACE_COLUMNS, Material, place_numbers
from fusetune_papers.reproduce.paper import Judge, fine_tune, fuse, image_logits
from fusetune_papers.reproduce.published import PRINTED
from fusetune_papers.reproduce.recipe import Recipe
from fusetune_papers.reproduce.texts import Scores, load_network, text_scores


@dataclass
class Outcome:
    """One experiment's result.

    Attributes:
        recipe: The experiment.
        title: What it is, in words.
        encoder: Its image or text network.
        task: What was predicted.
        form: paper, sound, or sound with single flaws.
        flaws: The switches that were on and act on such an experiment, in order.
        valid: Accuracy on the validation rows, with its 95 % interval.
        test: Accuracy on the test rows, with its 95 % interval.
        nll: NLL on the test rows.
        rows: Rows by part; the validation rows may be training rows (L5).
        groups: Streams among the test rows, or None.
        seed: Of everything random.
        synthetic: Were the pictures drawn?
        passes: Rows that went through the image encoder in stage M, by what for.
        published: Test accuracy that the notebook ends with.
        seconds: Time of the stages that belong to it.
    """

    recipe: str
    title: str
    encoder: str
    task: str
    form: str
    flaws: list[str]
    valid: Interval
    test: Interval
    nll: float
    rows: dict[str, int]
    groups: int | None
    seed: int
    synthetic: bool
    passes: dict[str, int]
    published: float | None
    published_valid: float | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**vars(self), "valid": self.valid.as_dict(), "test": self.test.as_dict()}


@dataclass
class Facts:
    """What the division of the rows gives away, without any image network.

    Attributes:
        shared: How many of the test rows' streams have training rows too.
        streams: How many streams the test rows have.
        nearest: Test accuracy of the nearest training frame's label.
        distance: Mean distance to that frame; NaN where no stream is shared.
        side_alone: Test accuracy of what the stream's name says, alone.
        constants: Accuracy of the best constant per stream and per location on all rows they were chosen on.
        findings: What the doctor says of the division.
    """

    shared: int
    streams: int
    nearest: float
    distance: float
    side_alone: Interval
    constants: tuple[float, ...]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """What makes results on such a division wrong."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; an unknown distance is null."""
        return {
            **vars(self),
            "distance": self.distance if math.isfinite(self.distance) else None,
            "side_alone": self.side_alone.as_dict(),
            "findings": [finding.as_dict() for finding in self.findings],
        }


@dataclass
class Series:
    """All experiments of one form (paper, sound, sound with a flaw) on one task."""

    task: str
    form: str
    flaws: frozenset[str]
    outcomes: list[Outcome] = field(default_factory=list)
    facts: Facts | None = None


def run_series(
    material: Material,
    recipes: Sequence[Recipe],
    form: str,
    flaws: frozenset[str],
    *,
    runtime: Runtime,
    log: Log,
    seed: int,
    cache: Path,
    allow_download: bool = False,
    into: list[Series] | None = None,
) -> Series:
    """Run experiments that share rows, parts, fine-tuned networks and text scores.

    Args:
        material: The rows.
        recipes: The experiments.
        form: What this form is called.
        flaws: The switches that are on, but for those that a recipe says its notebook has not.
        runtime: Device and precision.
        log: Told what happens.
        seed: Decides split, start, order and augmentation.
        cache: Folder of the feature store.
        allow_download: May weights be fetched from a hub?
        into: Given the series at once, which then fills: if an experiment fails, those before it are not lost.

    Raises:
        WeightsError: Weights of an encoder are not on this machine; before anything is trained.
    """
    series = Series(material.task, form, flaws)
    if into is not None:
        into.append(series)
    labs: dict[frozenset[str], _Lab] = {}

    def lab_with(its: frozenset[str]) -> _Lab:
        """Return what experiments with the same flaws share; a notebook that lacks some divides its rows otherwise."""
        if its not in labs:
            labs[its] = _Lab(Bench(material, its, runtime, log, seed, cache, allow_download))
        return labs[its]

    plans = [(lab_with(flaws - frozenset(recipe.without)), recipe) for recipe in recipes]
    _refuse_absent_weights([(lab.bench, recipe) for lab, recipe in plans])
    for lab, recipe in plans:
        started = time.perf_counter()
        lab.bench.passes.clear()
        judge = lab.judge(recipe)
        series.outcomes.append(_outcome(lab.bench, recipe, form, judge, started))
        log.say(f"  {recipe.title}: test accuracy {series.outcomes[-1].test.value:.4f}")
    if material.groups is not None:
        series.facts = _facts(lab_with(flaws).bench)
    return series


def _refuse_absent_weights(experiments: Sequence[tuple[Bench, Recipe]]) -> None:
    """Load every network once before anything is trained: what is missing must not cost hours.

    Raises:
        WeightsError: Naming the experiments whose networks cannot be loaded.
    """
    problems = []
    for bench, recipe in {networks_of(recipe): (bench, recipe) for bench, recipe in experiments}.values():
        try:
            if recipe.encoder:
                bench.encoder(recipe)
            if recipe.text:
                load_network(bench, recipe.text)
        except WeightsError as error:
            problems.append(f"  - {recipe.title} ({recipe.name}): {error}")
    if problems:
        raise WeightsError(
            "\n".join(["not all networks can be loaded, and nothing was trained:", *problems])
            + "\nWith --allow-download, reproduce fetches them; --encoder names another image network; --only runs "
            "some of the experiments."
        )


def networks_of(recipe: Recipe) -> str:
    """Return the names of an experiment's networks."""
    return " + ".join(([recipe.encoder] if recipe.encoder else []) + ([recipe.text.encoder] if recipe.text else []))


class _Lab:
    """Trains each network once, whatever number of experiments uses it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.tuned: dict[tuple[str | None, str], Alone] = {}
        self.texts: dict[str, Scores] = {}

    def judge(self, recipe: Recipe) -> Judge:
        bench = self.bench
        match recipe.stage:
            case "image":
                model = self._tuned(recipe)
                return Judge(lambda rows: _softmax(image_logits(bench, recipe, model, rows).double().numpy()))
            case "text":
                scores = self._text(recipe)
                return Judge(lambda rows: _softmax(scores.all[rows]))
            case _:
                # A copy: stage M may change the encoder's statistics (L13), and others use the same network.
                encoder = bench.encoder(recipe) if recipe.image is None else copy.deepcopy(self._tuned(recipe).encoder)
                return fuse(bench, recipe, encoder, self._side(recipe))

    def _tuned(self, recipe: Recipe) -> Alone:
        assert recipe.image is not None
        key = (recipe.encoder, recipe.image.model_dump_json())
        if key not in self.tuned:
            self.tuned[key] = fine_tune(self.bench, recipe)
        return self.tuned[key]

    def _text(self, recipe: Recipe) -> Scores:
        assert recipe.text is not None
        key = recipe.text.model_dump_json()
        if key not in self.texts:
            self.texts[key] = text_scores(self.bench, recipe.text)
        return self.texts[key]

    def _side(self, recipe: Recipe) -> dict[str, Scores]:
        side = {}
        if "place" in recipe.side:
            numbers = place_numbers(self.bench.material, ordinal=self.bench.on("L14"))
            side["place"] = Scores(numbers[self.bench.parts.head], numbers)
        if "text" in recipe.side:
            side["text"] = self._text(recipe)
        return side


def _outcome(bench: Bench, recipe: Recipe, form: str, judge: Judge, started: float) -> Outcome:
    material, valid = bench.material, bench.parts.valid
    passes = dict(bench.passes)
    on_valid = judge.predict(valid)
    test = bench.test(image=recipe.stage == "image")  # every choice has been made
    on_test = judge.predict(test)
    passes.setdefault("test", len(test) if recipe.stage == "fused" else 0)  # watched in every epoch with L8
    scores = _scores(bench, on_test, test)
    printed = PRINTED.get(recipe.notebook or 0)
    return Outcome(
        recipe=recipe.name,
        title=recipe.title,
        encoder=networks_of(recipe),
        task=material.task,
        form=form,
        flaws=in_order(flaw for flaw in bench.flaws if recipe.stage != "text" or not FLAWS[flaw].pictures),
        valid=_scores(bench, on_valid, valid)["accuracy"],
        test=scores["accuracy"],
        nll=scores["nll"].value,
        rows={"train": len(bench.parts.head), "valid": len(valid), "test": len(test)},
        groups=None if material.groups is None else int(material.groups.iloc[test].nunique()),
        seed=bench.seed,
        synthetic=material.synthetic,
        passes=passes,
        published=printed.kept_test if printed else None,
        published_valid=printed.kept_valid if printed else None,
        seconds=time.perf_counter() - started,
    )


def _facts(bench: Bench) -> Facts:
    material, train, test = bench.material, bench.parts.split.rows("train"), bench.test()
    numbers = place_numbers(material, ordinal=False)
    model = LogisticRegression(max_iter=1000).fit(numbers[train], material.labels[train])
    alone = _scores(bench, np.asarray(model.predict_proba(numbers[test])), test)["accuracy"]
    frame = material.table.frame
    constants = tuple(constant_accuracy(frame[material.task], frame[key]) for key in ("stream", "location"))
    near = nearest_frame(frame.assign(split=np.array(PARTS)[bench.parts.split.part]), material.task)
    distance = float(near.distances.mean()) if len(near.distances) else math.nan
    schema = infer_schema(material.table, Roles(material.task, inputs=PLACE_COLUMNS, group="stream", row_id="id"))
    findings = examine_split(Examined.of(material.table, schema).with_split(bench.parts.split))
    return Facts(*shared_groups(material, train, test), near.accuracy, distance, alone, constants, findings)


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(softmax(logits, axis=1))


def _scores(bench: Bench, probabilities: npt.NDArray[np.float64], rows: Rows) -> dict[str, Interval]:
    """Return scores with intervals; frames of one stream are resampled together, whichever way they were split."""
    groups = bench.material.groups
    return score_with_intervals(
        probabilities,
        bench.material.labels[rows],
        None if groups is None else groups.iloc[rows].to_numpy(),
        resamples=500,
    )
