"""Run the experiments of a data set in one form and collect what is to be printed."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusetune.context import Context
from fusetune.errors import WeightsError
from fusetune.evaluate.intervals import Interval
from fusetune.networks import EnsembleNetwork
from fusetune_papers.reproduce.alone import Scores, fine_tune, text_scores
from fusetune_papers.reproduce.facts import Facts, facts_of
from fusetune_papers.reproduce.flaws import FLAWS, in_order
from fusetune_papers.reproduce.head import Frozen, Predict, fuse
from fusetune_papers.reproduce.lab import Lab, outputs_on, untrained
from fusetune_papers.reproduce.material import TASKS, place_numbers
from fusetune_papers.reproduce.recipe import Recipe


@dataclass
class Outcome:
    """One experiment's result.

    Attributes:
        recipe: Name of the experiment.
        title: What it is, in words.
        encoder: Its image or text network.
        task: What was predicted.
        form: paper, sound, or sound with single flaws.
        flaws: The switches that were on and act on such an experiment, in order.
        score: What the next two are: accuracy, or where a row may have several labels, label_accuracy.
        valid: The score of the validation rows, with its 95 % interval.
        test: The score of the test rows, with its 95 % interval.
        scores: All scores of the test rows.
        nll: NLL on the test rows.
        rows: Rows by part; the validation rows may be training rows (L5).
        groups: Streams among the test rows, or None.
        seed: Of everything random.
        synthetic: Were the pictures drawn?
        passes: Rows that went through the image encoder in stage M, by what for.
        published: Test accuracy that the notebook ends with, of its own task; beside it that of its validation rows.
        seconds: Time of the stages that belong to it.
    """

    recipe: str
    title: str
    encoder: str
    task: str
    form: str
    flaws: list[str]
    score: str
    valid: Interval
    test: Interval
    scores: dict[str, Interval]
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
        scores = {name: interval.as_dict() for name, interval in self.scores.items()}
        return vars(self) | {"valid": self.valid.as_dict(), "test": self.test.as_dict(), "scores": scores}


@dataclass
class Series:
    """All experiments of one form (paper, sound, sound with a flaw) on one task."""

    task: str
    form: str
    flaws: frozenset[str]
    outcomes: list[Outcome] = field(default_factory=list)
    facts: Facts | None = None


def run_series(series: Series, recipes: Sequence[Recipe], open_lab: Callable[[frozenset[str]], Lab]) -> None:
    """Run experiments that share rows, parts, fine-tuned networks and text scores.

    Args:
        series: Gets the outcomes one by one: if an experiment fails, those before it are not lost.
        recipes: The experiments. The series' flaws are on, but for those that a recipe says its notebook has not.
        open_lab: Flaws -> what experiments with these flaws share; one that lacks some divides its rows otherwise.

    Raises:
        WeightsError: Weights of an encoder are not on this machine; before anything is trained.
    """
    open_lab = functools.cache(open_lab)
    plans = [(open_lab(series.flaws - frozenset(recipe.without)), recipe) for recipe in recipes]
    _refuse_absent_weights(plans)
    for lab, recipe in plans:
        started = time.perf_counter()
        lab.passes.clear()
        series.outcomes.append(_outcome(lab, recipe, series.form, _trained(lab, recipe), started))
        lab.log.say(f"  {recipe.title}: test {lab.measure.score_word} {series.outcomes[-1].test.value:.4f}")
    lab = open_lab(series.flaws)
    if lab.material.groups is not None:
        series.facts = facts_of(lab)


def _refuse_absent_weights(plans: Sequence[tuple[Lab, Recipe]]) -> None:
    """Load every network once before anything is trained: what is missing must not cost hours.

    Raises:
        WeightsError: Naming the experiments whose networks cannot be loaded.
    """
    problems = []
    for lab, recipe in {recipe.networks: (lab, recipe) for lab, recipe in plans}.values():
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


def _trained(lab: Lab, recipe: Recipe) -> Predict:
    """Train what is judged; a network that several experiments use is trained once."""
    if recipe.stage == "text":
        scores = _text(lab, recipe)
        return lambda rows: lab.measure.say(scores.all[rows])
    run, network = _image(lab, recipe)
    if recipe.stage == "image":
        return lambda rows: lab.measure.say(outputs_on(run, network, rows).f)
    # A copy: stage M may change the encoder's statistics (L13), and others use the same network.
    return fuse(Frozen(lab, run, copy.deepcopy(network)), recipe, _side(lab, recipe))


def _image(lab: Lab, recipe: Recipe) -> tuple[Context, EnsembleNetwork]:
    if recipe.image is None:
        run = lab.images(recipe)
        return run, untrained(run, lab.draws)
    return lab.run.remember((f"image {recipe.encoder} {recipe.image!r}",), lambda: fine_tune(lab, recipe))


def _text(lab: Lab, recipe: Recipe) -> Scores:
    assert recipe.text is not None
    stage = recipe.text
    return lab.run.remember((f"text {stage!r}",), lambda: text_scores(lab, stage))


def _side(lab: Lab, recipe: Recipe) -> dict[str, Scores]:
    side = {}
    if "place" in recipe.side:
        numbers = place_numbers(lab.material, ordinal=lab.on("L14"))
        side["place"] = Scores(numbers[lab.parts.head], numbers)
    if "text" in recipe.side:
        side["text"] = _text(lab, recipe)
    return side


def _outcome(lab: Lab, recipe: Recipe, form: str, predict: Predict, started: float) -> Outcome:
    material, valid, score, loss = lab.material, lab.parts.valid, lab.measure.score, lab.measure.loss
    printed = recipe.printed.kept if recipe.printed and material.task in TASKS[material.data] else {}
    passes, on_valid = dict(lab.passes), lab.scores(predict(valid), valid)
    test = lab.test(image=recipe.stage == "image")  # every choice has been made
    on_test = lab.scores(predict(test), test)
    passes.setdefault("test", len(test) if recipe.stage == "fused" else 0)  # watched in every epoch with L8
    return Outcome(
        recipe=recipe.name,
        title=recipe.title,
        encoder=recipe.networks,
        task=material.task,
        form=form,
        flaws=in_order(flaw for flaw in lab.flaws if recipe.stage != "text" or not FLAWS[flaw].pictures),
        score=score,
        valid=on_valid[score],
        test=on_test[score],
        scores=on_test,
        nll=on_test[loss].value,
        rows={"train": len(lab.parts.head), "valid": len(valid), "test": len(test)},
        groups=None if material.groups is None else int(material.groups.iloc[test].nunique()),
        seed=lab.seed,
        synthetic=material.synthetic,
        passes=passes,
        published=printed.get("test"),
        published_valid=printed.get("valid"),
        seconds=time.perf_counter() - started,
    )
