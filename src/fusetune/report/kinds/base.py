"""The parts of the page that differ by what is predicted; templates ask this object, and never which kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

from fusetune.data.choices import TargetKind
from fusetune.evaluate.intervals import Interval
from fusetune.report import prose
from fusetune.report.form import Form, Forms
from fusetune.report.prose import Wording
from fusetune.report.template import sheet
from fusetune.report.terms import SCORES, TERMS
from fusetune.result import Case, Result
from fusetune.strategies.rivals import MAJORITY


class Kind(ABC):
    """What of the page hangs on what is predicted.

    Attributes:
        kind: The kind of target.
        links: Its own sections, by their id.
        first_template: Pictures of the first screen.
        template: Its own sections.
        counts_template: What the parts of the table hold of the label.
        sheet: File of more of the style sheet, or nothing.
        right: Words after the big number, before "on ... test rows".
        headline: The form of the big number.
        sign_test: The paired test of rows, at the head of a column.
        surer: What is said of a comparison where only the loss is shown to be better.
        independent: What the sign test takes for granted, as the start of a sentence.
        constant: What always answering the same is called on the first screen.
        scored: What the bars of the first screen show.
        others: What another row's features are taken from, where inputs mislead.
        views: What views should still show.
        curve_unit: The unit of learning curves.
        loss_in_words: The loss where it is spelt out.
        score_in_words: What a score says of a model, with a place for it.
        promised: What a model brings that keeps its certainty's promise, before "from validation rows".
        sets: What of it holds the truth, with a place for the promised share.
        over_seeds: The metrics of which a contest shows how seeds differ, as the start of a sentence.
        mistakes_title: Heading of the worst rows.
        mistakes_words: What they are, in sentences.
        no_mistakes: What is said where there are none.
        filtered: Can the worst rows be chosen by class?
        plainly: What this model is called on the first screen where it is not followed by thresholds, as others are.
        acted: What is compared, and what of the page is by thresholds, in sentences, where the model follows some.
        scored_plainly: What of the score table leaves thresholds out, and why.
        terms: Terms and their meanings.
        meanings: Names and meanings of scores.
    """

    kind: ClassVar[TargetKind]
    links: ClassVar[tuple[tuple[str, str], ...]]
    first_template: ClassVar[str]
    template: ClassVar[str]
    counts_template: ClassVar[str] = "counts.html"
    sheet: ClassVar[str] = ""
    right: ClassVar[str]
    sign_test: ClassVar[str] = "Sign test"
    surer: ClassVar[str] = "its probabilities are better"
    independent: ClassVar[str] = "The sign test takes rows"
    constant: ClassVar[str]
    scored: ClassVar[str]
    others: ClassVar[str]
    views: ClassVar[str]
    curve_unit: ClassVar[str] = "nats"
    loss_in_words: ClassVar[str] = "negative log-likelihood"
    score_in_words: ClassVar[str]
    over_seeds: ClassVar[str]
    promised: ClassVar[str]
    sets: ClassVar[str] = ""
    mistakes_title: ClassVar[str]
    mistakes_words: ClassVar[str]
    no_mistakes: ClassVar[str]
    filtered: ClassVar[bool] = False
    plainly: ClassVar[str] = "this model, without its threshold"
    acted: ClassVar[str] = (
        "Models are compared by their most probable class, since each would have a threshold of its own. The large "
        "number, the matrix, the classes and the rows below are by the threshold, as the model acts."
    )
    scored_plainly: ClassVar[str] = "accuracy and F1 are of the most probable class, as the comparisons are"
    terms: ClassVar[dict[str, str]] = TERMS
    meanings: ClassVar[dict[str, tuple[str, str]]] = SCORES

    def __init__(self, result: Result) -> None:
        self.result = result

    @classmethod
    def styled(cls) -> str:
        """Return more of the style sheet."""
        return sheet(cls.sheet) if cls.sheet else ""

    @property
    def style(self) -> str:
        """The same, for a run's page."""
        return self.styled()

    @classmethod
    @abstractmethod
    def forms(cls, size: float) -> Forms:
        """Return how scores are printed where the loss is of some size."""

    @classmethod
    def set_name(cls, method: str) -> str:
        """Return what holds the truth by this method, by its name in `diagnosis.Coverage`."""
        return method.upper()

    @cached_property
    def printed(self) -> Forms:
        """How scores of this run are printed."""
        return self.forms(1.0)

    @property
    def score(self) -> Form:
        """The score of the gain table of which more is better."""
        return self.printed.score

    @property
    def loss(self) -> Form:
        """That of which less is better."""
        return self.printed.loss

    @property
    @abstractmethod
    def described(self) -> str:
        """What is predicted, after the label's name."""

    @property
    @abstractmethod
    def card(self) -> tuple[str, str]:
        """What the model is, up to "from ...", and what it answers for every row."""

    @property
    def big(self) -> tuple[Interval, Form]:
        """The number of the first screen."""
        return self.result.judged.acted_on(self.result.judged.measure.score), self.score

    def beside(self) -> list[str]:
        """Return lines below the big number."""
        return []

    @cached_property
    @abstractmethod
    def wording(self) -> Wording:
        """How comparisons are put into words."""

    def verdict(self) -> tuple[str, str]:
        """Return whether the model is of use, as `good`, `open` or `bad`, and in one or two sentences."""
        return prose.verdict_in(self.result, self.wording)

    def answer(self) -> list[str]:
        """Return the sentences of the first paragraph."""
        return prose.answer_in(self.result, self.wording, self.opening(), self.certainty())

    @abstractmethod
    def opening(self) -> list[str]:
        """Return the first sentences of it: how good, and how good the simplest answer would be."""

    @abstractmethod
    def certainty(self) -> str:
        """Return one sentence about how far what is said of certainty can be believed."""

    @abstractmethod
    def limits(self) -> list[str]:
        """Return what the model card names as limits, beyond warnings and what was not judged."""

    @abstractmethod
    def context(self) -> dict[str, Any]:
        """Return what the kind's own templates print."""

    def first_of(self, row: Any) -> Interval:
        """Return what the first screen draws of a row of the gain table."""
        interval: Interval = row.accuracy
        return interval

    @property
    def first_form(self) -> Form:
        """How that is printed."""
        return self.score

    def called(self, name: str) -> str:
        """Return what a row of the gain table is called."""
        return self.constant if name == MAJORITY else name

    def instead(self, way: str) -> str:
        """Return what a misleading input is instead, by its word in `modalities.INTERFERENCE`."""
        return self.printed.instead(way)

    def valid_loss(self) -> tuple[str, Form]:
        """Return what the validation loss of learning curves is called and how the score beside it is printed."""
        return self.result.judged.measure.target.loss_word, self.score

    def score_form(self, key: str) -> Form:
        """Return how a score of the test part is printed."""
        return self.printed.of(key)

    def said(self, case: Case) -> str:
        """Return what stands after the answer in an example."""
        return ""

    def label_said(self, case: Case) -> str:
        """Return what stands after the label in an example whose answer is another."""
        return ""

    def agrees(self, case: Case) -> str:
        """Return the class of the words that say what is right."""
        return "good" if case.label == case.decision else "bad"

    def shares_words(self, case: Case) -> str:
        """Return what the inputs' shares of an example are."""
        return f"What each input adds to “{case.decision}”, in points"

    def share_length(self, case: Case, share: float) -> float:
        """Return the length of a share's bar, 0 to 1."""
        return round(abs(share), 4)

    def share_value(self, share: float) -> str:
        """Print an input's share of an answer."""
        return prose.points(share)

    def filter_names(self, case: Case) -> list[str]:
        """Return the names by which an example is found."""
        return [case.label, case.decision]
