"""Run the experiments of a data set under one recipe and collect what is to be printed."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from fusetune.context import Context
from fusetune.data.infer import infer_schema
from fusetune.data.split import PARTS, Rows
from fusetune.doctor.case import Case
from fusetune.doctor.examine import examine_split
from fusetune.doctor.findings import Finding
from fusetune.errors import WeightsError
from fusetune.evaluate.intervals import Interval, score_with_intervals
from fusetune.evaluate.temperature import softmax
from fusetune.networks import EnsembleNetwork
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune_papers.datasets.baselines import constant_accuracy, nearest_frame
from fusetune_papers.reproduce.alone import Scores, fine_tune, text_scores
from fusetune_papers.reproduce.division import shared_groups
from fusetune_papers.reproduce.flaws import FLAWS, in_order
from fusetune_papers.reproduce.head import Frozen, Predict, fuse
from fusetune_papers.reproduce.lab import Lab, said_of, untrained
from fusetune_papers.reproduce.material import PLACE_COLUMNS, Material, place_numbers
from fusetune_papers.reproduce.published import PRINTED
from fusetune_papers.reproduce.recipe import Recipe


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

    @functools.cache
    def lab_with(its: frozenset[str]) -> Lab:
        """Return what experiments with the same flaws share; a notebook that lacks some divides its rows otherwise."""
        return Lab(material, its, runtime, log, seed, cache, allow_download)

    plans = [(lab_with(flaws - frozenset(recipe.without)), recipe) for recipe in recipes]
    _refuse_absent_weights(plans)
    for lab, recipe in plans:
        started = time.perf_counter()
        lab.passes.clear()
        series.outcomes.append(_outcome(lab, recipe, form, _trained(lab, recipe), started))
        log.say(f"  {recipe.title}: test accuracy {series.outcomes[-1].test.value:.4f}")
    if material.groups is not None:
        series.facts = _facts(lab_with(flaws))
    return series


def _refuse_absent_weights(plans: Sequence[tuple[Lab, Recipe]]) -> None:
    """Load every network once before anything is trained: what is missing must not cost hours.

    Raises:
        WeightsError: Naming the experiments whose networks cannot be loaded.
    """
    problems = []
    for lab, recipe in {networks_of(recipe): (lab, recipe) for lab, recipe in plans}.values():
        try:
            if recipe.encoder:
                lab.image_encoder(recipe)
            if recipe.text and recipe.text.encoder != "shallow":
                lab.text_encoder(recipe.text, lab.parts.text)
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


def _trained(lab: Lab, recipe: Recipe) -> Predict:
    """Train what is judged; a network that several experiments use is trained once."""
    match recipe.stage:
        case "image":
            run, network = _image(lab, recipe)
            return lambda rows: softmax(said_of(run, network, rows).f)
        case "text":
            scores = _text(lab, recipe)
            return lambda rows: softmax(scores.all[rows])
        case _:
            run, network = _image(lab, recipe)
            # A copy: stage M may change the encoder's statistics (L13), and others use the same network.
            return fuse(Frozen(lab, run, copy.deepcopy(network)), recipe, _side(lab, recipe))


def _image(lab: Lab, recipe: Recipe) -> tuple[Context, EnsembleNetwork]:
    if recipe.image is None:
        run = lab.images(recipe)
        return run, untrained(run)
    return lab.run.remember(f"image {recipe.encoder} {recipe.image!r}", lambda: fine_tune(lab, recipe))


def _text(lab: Lab, recipe: Recipe) -> Scores:
    assert recipe.text is not None
    stage = recipe.text
    return lab.run.remember(f"text {stage!r}", lambda: text_scores(lab, stage))


def _side(lab: Lab, recipe: Recipe) -> dict[str, Scores]:
    side = {}
    if "place" in recipe.side:
        numbers = place_numbers(lab.material, ordinal=lab.on("L14"))
        side["place"] = Scores(numbers[lab.parts.head], numbers)
    if "text" in recipe.side:
        side["text"] = _text(lab, recipe)
    return side


def _outcome(lab: Lab, recipe: Recipe, form: str, predict: Predict, started: float) -> Outcome:
    material, valid = lab.material, lab.parts.valid
    passes = dict(lab.passes)
    on_valid = predict(valid)
    test = lab.test(image=recipe.stage == "image")  # every choice has been made
    on_test = predict(test)
    passes.setdefault("test", len(test) if recipe.stage == "fused" else 0)  # watched in every epoch with L8
    scores = _scores(lab, on_test, test)
    printed = PRINTED.get(recipe.notebook or 0)
    return Outcome(
        recipe=recipe.name,
        title=recipe.title,
        encoder=networks_of(recipe),
        task=material.task,
        form=form,
        flaws=in_order(flaw for flaw in lab.flaws if recipe.stage != "text" or not FLAWS[flaw].pictures),
        valid=_scores(lab, on_valid, valid)["accuracy"],
        test=scores["accuracy"],
        nll=scores["nll"].value,
        rows={"train": len(lab.parts.head), "valid": len(valid), "test": len(test)},
        groups=None if material.groups is None else int(material.groups.iloc[test].nunique()),
        seed=lab.seed,
        synthetic=material.synthetic,
        passes=passes,
        published=printed.kept_test if printed else None,
        published_valid=printed.kept_valid if printed else None,
        seconds=time.perf_counter() - started,
    )


def _facts(lab: Lab) -> Facts:
    material, train, test = lab.material, lab.parts.split.rows("train"), lab.test()
    numbers = place_numbers(material, ordinal=False)
    model = LogisticRegression(max_iter=1000).fit(numbers[train], material.labels[train])
    alone = _scores(lab, np.asarray(model.predict_proba(numbers[test])), test)["accuracy"]
    frame = material.table.frame
    constants = tuple(constant_accuracy(frame[material.task], frame[key]) for key in ("stream", "location"))
    near = nearest_frame(frame.assign(split=np.array(PARTS)[lab.parts.split.part]), material.task)
    distance = float(near.distances.mean()) if len(near.distances) else math.nan
    schema = infer_schema(material.table, material.task, inputs=PLACE_COLUMNS, group="stream", row_id="id")
    findings = examine_split(Case.of(material.table, schema).with_split(lab.parts.split))
    return Facts(*shared_groups(material, train, test), near.accuracy, distance, alone, constants, findings)


def _scores(lab: Lab, probabilities: npt.NDArray[np.float64], rows: Rows) -> dict[str, Interval]:
    """Return scores with intervals; frames of one stream are resampled together, whichever way they were split."""
    groups = lab.material.groups
    return score_with_intervals(
        probabilities,
        lab.material.labels[rows],
        None if groups is None else groups.iloc[rows].to_numpy(),
        resamples=500,
    )
