"""A run's result as one typed object: what was run, on what data, how it was made, how it fared, what it cost.

`metrics.json` is `Result.metrics()`, the report shows the `Result` itself, and nothing else is handed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fusetune.context import Cost
from fusetune.data.schema import free_name
from fusetune.data.weights import Weights
from fusetune.doctor.exhibits import Exhibit
from fusetune.evaluate.analysis import Analysis
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.decision import Rule
from fusetune.evaluate.explain import Pixels
from fusetune.evaluate.intervals import Interval, plain
from fusetune.evaluate.measures import CLASSES, Measure
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.miscalibration import Miscalibration
from fusetune.evaluate.selective import Recall
from fusetune.guidance import Guidance
from fusetune.networks import Outputs
from fusetune.targets import Truth
from fusetune.train.loop import EpochRecord

SIGNIFICANT = 0.05  # p-values below this, together with an interval without zero, make a difference shown


@dataclass(frozen=True)
class Origin:
    """What was run: the table and its label, how and when, with which packages; hashes of split, rows and weights.

    `command` says how to repeat it, and the hash of `rows` which row has which label.
    """

    table: str
    label: str
    command: str
    created: str
    preset: str
    seed: int
    config: dict[str, Any]
    versions: dict[str, str]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Column:
    """One column: what kind it was taken for, the input that it is part of (or none), and the reason for either."""

    name: str
    kind: str
    modality: str
    reason: str


@dataclass(frozen=True)
class Data:
    """What the model was made from and judged on: rows, groups and rows per class by part, the split, the columns.

    `groups` and `group_column` are None when the rows are not grouped, and `weight_column` where all rows count alike.
    `classes` come in the order of the probability columns, and `findings`, what is wrong with the table and what is
    shown of it, with errors first.
    """

    rows: dict[str, int]
    groups: dict[str, int] | None
    group_column: str | None
    split_how: str
    test_opened: str | None
    classes: list[str]
    class_counts: dict[str, list[int]]
    inputs: list[Column]
    left_out: list[Column]
    findings: Sequence[Exhibit]
    weight_column: str | None = None


@dataclass(frozen=True)
class Method:
    """How the model was made: the strategy with its own settings, what it notes of each input and the whole, its cost.

    What it shares with other strategies counts in its cost as if it were alone.
    """

    name: str
    title: str
    paper: str
    settings: dict[str, Any]
    notes: dict[str | None, str]
    cost: Cost


@dataclass(frozen=True)
class GainRow:
    """One model of the gain table and a note of what it is: scores on the test part, and its NLL on validation rows."""

    name: str
    note: str
    accuracy: Interval
    nll: Interval
    valid_nll: float


@dataclass(frozen=True)
class Comparison:
    """The judged model against another one on the same test rows; differences are the judged model's minus the other's.

    Attributes:
        against: Name of the other model, as it reads after "better than".
        gained: Rows that only the judged model decides correctly.
        lost: Rows that only the other model decides correctly.
        p: Exact McNemar p-value, two-sided. Where rows do not count alike, McNemar's test, which counts rows, is
            replaced by the permutation test of the same signs, each as its row counts.
        p_holm: The same after Holm's correction for the number of comparisons.
        accuracy: Difference of accuracies.
        nll: Difference of NLLs; negative speaks for the judged model.
        p_group: Of the permutation test that swaps the two models group by group; None without groups.
        p_group_holm: The same after Holm's correction.
        p_nll: Of the permutation test on the rows' NLL, models swapped group by group (without groups: row by row).
        p_nll_holm: The same after Holm's correction.
    """

    against: str
    gained: int
    lost: int
    p: float
    p_holm: float
    accuracy: Interval
    nll: Interval
    p_group: float | None = None
    p_group_holm: float | None = None
    p_nll: float = 1.0
    p_nll_holm: float = 1.0

    @property
    def surer(self) -> bool:
        """Are its probabilities shown to be better, whatever the share of right decisions?"""
        return self.p_nll_holm < SIGNIFICANT and self.nll.bounded and self.nll.high < 0

    @property
    def verdict(self) -> Literal["better", "worse", "not shown"]:
        """Better or worse only where the paired tests and the interval of the difference all say so."""
        if max(self.p_holm, self.p_group_holm or 0.0) >= SIGNIFICANT or not self.accuracy.bounded:
            return "not shown"
        if self.accuracy.low > 0:
            return "better"
        return "worse" if self.accuracy.high < 0 else "not shown"


@dataclass(frozen=True, eq=False)
class Judgement:
    """Everything that was measured on valid and test rows.

    Attributes:
        chosen: Name of the judged model's row in the gain table.
        test: Metric -> interval, judged model, test part.
        valid: The same on the validation part.
        gain: The gain table; the last row is the judged model.
        comparisons: Paired tests of the judged model against each modality (the best on validation rows first), the
            ensemble and frozen encoders, p-values corrected for their number.
        labels: Class indices by part, int [rows].
        probabilities: Of the judged model by part, float [rows, classes].
        calibration: What was learnt on validation rows and goes with the model.
        analysis: Subsets of modalities, missing inputs, sets and so on.
        shares: Each modality's share of the decision on each test row, by modality.
        prior: Probabilities of the test rows without any input, float [rows, classes].
        frequent: The same test against always answering the most frequent class of the training part; p-values are not
            corrected, since nobody chooses among several of these.
        recalls: The share of right decisions of every class on the test part, by the model's rule.
        acted: What of `test` hangs on the decision, by the model's threshold; empty where it has none. All that
            compares models, `test` and `gain` among it, is about the most probable class.
        miscalibration: How far stated certainty is off on the test part, without what chance adds.
        outputs: What the judged model's network says of the test rows.
        measure: How answers are judged: what `accuracy` and `nll` of the tables stand for.
        counted: What rows count by part, float [rows]; empty where all count alike.
    """

    chosen: str
    test: dict[str, Interval]
    valid: dict[str, Interval]
    gain: list[GainRow]
    comparisons: list[Comparison]
    labels: Mapping[str, Truth]
    probabilities: Mapping[str, FloatArray]
    calibration: Calibration
    analysis: Analysis
    shares: dict[str, FloatArray]
    prior: FloatArray
    frequent: Comparison | None = None
    recalls: list[Recall] = field(default_factory=list)
    acted: dict[str, Interval] = field(default_factory=dict)
    miscalibration: Miscalibration | None = None
    outputs: Outputs | None = None
    measure: Measure[Any] = CLASSES
    counted: Mapping[str, Weights] = field(default_factory=dict)

    @property
    def accuracy(self) -> Interval:
        """The share of test rows that is decided right, by the rule that the model follows."""
        return self.acted_on("accuracy")

    def acted_on(self, metric: str) -> Interval:
        """Return a score of the test part, by the rule that the model follows where it hangs on decisions."""
        return self.acted.get(metric, self.test[metric])

    def rule(self, classes: Sequence[Any]) -> Rule:
        """Return how the model decides."""
        return self.calibration.rule(classes, measure=self.measure)


@dataclass(frozen=True, eq=False)
class Case:
    """A test row and what the model says of it.

    `words` are its cells that can be read, by column, `pictures` uint8 [side, side, 3] by modality. `shares` of the
    modalities (exact Shapley values) and `prior`, the probability of the decision without any input, sum to its
    `probability`. `about` says which class, label or number that is of.
    """

    row: str
    group: str | None
    label: str
    decision: str
    probability: float
    label_probability: float
    pictures: dict[str, Pixels]
    words: dict[str, str]
    shares: dict[str, float]
    prior: float
    about: str = ""

    def redacted(self) -> Case:
        """Return what the model says, and of the row nothing."""
        return replace(self, row="left out", group=None, pictures={}, words={})


@dataclass(frozen=True, eq=False)
class Training:
    """What training did, and what the whole run cost.

    Attributes:
        curves: Stage -> epochs, counted from 1.
        best_epochs: Stage -> the epoch whose weights were kept; 0: those from before the first.
        sheets: Modality -> training pictures and the views that were drawn of them, uint8 [height, width, 3].
        seconds: Stage -> duration; ``total`` is the whole run.
        passes: What was encoded -> rows sent through an encoder.
        reused: What was encoded -> rows that the feature store saved.
        passes_paper: Passes that training the head on re-encoded inputs in every epoch would have taken.
    """

    curves: dict[str, list[EpochRecord]]
    best_epochs: dict[str, int]
    sheets: dict[str, Pixels]
    seconds: dict[str, float]
    passes: dict[str, int]
    reused: dict[str, int]
    passes_paper: int


@dataclass(frozen=True, eq=False)
class Result:
    """Everything that a run says of itself; mistakes come with the worst first, warnings as sentences.

    `examples` are a few test rows, by why they are shown. `guide` is what kind of fusion the data ask for; None where
    it was not asked.
    """

    origin: Origin
    data: Data
    method: Method
    judged: Judgement
    training: Training
    mistakes: list[Case]
    warnings: list[str]
    guide: Guidance | None = None
    examples: Mapping[str, Case] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What is predicted from what."""
        return f"{self.origin.label} from {' + '.join(dict.fromkeys(column.modality for column in self.data.inputs))}"

    def redacted(self) -> Result:
        """Return the same result without ids, texts and pictures of rows, and without sentences that may quote them.

        Names of classes and columns stay, as do all numbers.
        """
        told = f"{len(self.warnings)} of the run; the file log.jsonl beside the report has them, with what they quote."
        findings = [one.redacted() for one in self.data.findings]
        lows = self.judged.analysis.worst_group
        unnamed = None if lows is None or lows.group is None else replace(lows.group, name="left out")
        analysis = replace(
            self.judged.analysis, worst_group=None if lows is None else replace(lows, group=unnamed)
        )  # fmt: skip
        return replace(
            self,
            origin=replace(self.origin, command="left out"),
            data=replace(self.data, findings=findings),
            judged=replace(self.judged, analysis=analysis),
            training=replace(self.training, sheets={}),
            mistakes=[one.redacted() for one in self.mistakes],
            examples={why: one.redacted() for why, one in self.examples.items()},
            warnings=[told] if self.warnings else [],
        )

    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
        data, method, judged, training = self.data, self.method, self.judged, self.training
        named = judged.measure.named
        reused = {f"{name}, reused from the store": rows for name, rows in training.reused.items()}
        values = {
            **{key: getattr(data, key) for key in ("rows", "groups", "classes")},
            **judged.measure.facts(),
            **({} if data.weight_column is None else {"weight": data.weight_column}),
            "seed": self.origin.seed,
            "preset": self.origin.preset,
            "strategy": {key: getattr(method, key) for key in ("name", "title", "paper", "settings")},
            "notes": {free_name("whole", method.notes) if m is None else m: note for m, note in method.notes.items()},
            "split_hash": self.origin.hashes["split"],
            "test_opened": data.test_opened,
            "rule": judged.rule(data.classes).words,
            "test": judged.test,
            "acted": judged.acted or None,
            "valid": judged.valid,
            "gain": named(plain(judged.gain)),
            "comparisons": named([_told(c) for c in judged.comparisons]),
            "frequent": None if judged.frequent is None else named(_told(judged.frequent)),
            "recalls": judged.recalls,
            "miscalibration": judged.miscalibration,
            **named(judged.analysis.as_dict()),
            "seconds": _rounded(training.seconds),
            "encoder_passes": training.passes | reused,
            "cost": {"seconds": _rounded(method.cost.seconds), "passes": method.cost.passes},
            "guide": None if self.guide is None else self.guide.as_dict(),
            "warnings": self.warnings,
            "rows_hash": self.origin.hashes["rows"],
        }
        return {name: plain(value) for name, value in values.items()}


def _told(comparison: Comparison) -> dict[str, Any]:
    facts: dict[str, Any] = plain(comparison)
    return facts | {"verdict": comparison.verdict, "surer": comparison.surer}


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in seconds.items()}
