"""What the report is made from: the measured facts of one run, without any wording or layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fusetune.evaluate.intervals import Interval
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.train.loop import EpochRecord

SIGNIFICANT = 0.05  # p-values below this, together with an interval without zero, make a difference shown


@dataclass(frozen=True)
class Input:
    """One column of the table.

    Attributes:
        name: The column's name.
        kind: What it was taken for: image, text, number, category, ...
        modality: The encoder that reads it; empty for a column left out.
        reason: Why it was given this kind, or why it was left out.
    """

    name: str
    kind: str
    modality: str
    reason: str


@dataclass(frozen=True)
class GainRow:
    """One model of the gain table, judged on the test part.

    Attributes:
        name: Short name, such as "image alone".
        note: What it is, in a few words; may be empty.
        accuracy: Share of correct rows.
        nll: Mean negative log-likelihood in nats; None for a model without probabilities.
        valid_nll: The same on the validation part, each row at a temperature that it did not help to fit: what choices
            are made by; None where it was not measured.
    """

    name: str
    note: str
    accuracy: Interval
    nll: Interval | None
    valid_nll: float | None


@dataclass(frozen=True)
class Comparison:
    """The two-stage model against another model on the same test rows.

    Attributes:
        against: Name of the other model, as it reads after "better than".
        gained: Rows that only the two-stage model decides correctly.
        lost: Rows that only the other model decides correctly.
        p: Exact McNemar p-value, two-sided.
        p_holm: The same after Holm's correction for the number of comparisons.
        accuracy: Accuracy of the two-stage model minus that of the other.
        nll: The same difference of the NLL; negative speaks for the two-stage model.
        p_group: Of the permutation test that swaps the two models group by group; None without groups.
        p_group_holm: The same after Holm's correction.
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

    @property
    def verdict(self) -> Literal["better", "worse", "not shown"]:
        """Better or worse only where the paired tests and the interval of the difference all say so."""
        if max(self.p_holm, self.p_group_holm or 0.0) >= SIGNIFICANT or not self.accuracy.bounded:
            return "not shown"
        if self.accuracy.low > 0:
            return "better"
        return "worse" if self.accuracy.high < 0 else "not shown"


@dataclass(frozen=True)
class Mistake:
    """One row of the test part that the model decides wrongly.

    Attributes:
        row: Its id.
        group: Its group, or None.
        label: What it is.
        decision: What the model says.
        probability: How sure the model is of that.
        label_probability: What it gives the right class.
        picture: A small JPEG as a data URI, by modality.
        words: What can be read in the row: column -> text.
        shares: Modality -> its share of the decision's probability (exact Shapley values).
        prior: Probability of the decision without any input: shares and prior sum to the probability.
    """

    row: str
    group: str | None
    label: str
    decision: str
    probability: float
    label_probability: float
    picture: dict[str, str]
    words: dict[str, str]
    shares: dict[str, float]
    prior: float


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that the report shows.

    Attributes:
        title: Heading of the page.
        table: The table that was read (a path or a name).
        label: The column that is predicted.
        command: How to repeat the run.
        created: When the run ended, as it shall be printed.
        recipe: Name of the recipe.
        seed: Seed of the run.
        classes: Class names, in the order of the probability columns.
        rows: Rows per part (train, valid, test).
        groups: Groups per part, or None when the rows are not grouped.
        group_column: The column that names the group, or None.
        split_how: How the rows were split, as one sentence.
        class_counts: Part -> rows per class.
        inputs: Columns that were used.
        left_out: Columns that were not used, with the reason.
        probabilities: Of the two-stage model on the test part, ``float [rows, classes]``.
        labels: Class indices of the test part, ``int [rows]``.
        test: Metric -> interval on the test part.
        valid: The same on the validation part; may be empty.
        gain: The models of the gain table; the last one is the two-stage model.
        comparisons: The two-stage model against others.
        curves: Modality -> epochs of fine-tuning its encoder, counted from 1.
        best_epochs: Modality -> the epoch whose weights were kept; 0: those from before the first.
        seconds: Stage -> duration; ``total`` is shown as the sum.
        encoder_passes: What was encoded -> number of rows sent through an encoder.
        encoder_passes_paper: Passes that training the head on re-encoded images in every epoch would have taken.
        warnings: What the reader must know before relying on the numbers, one sentence each.
        config: The whole configuration, as plain values.
        versions: Package -> version.
        hashes: Name -> hash of an input or output.
        analysis: What `metrics.json` holds about subsets, missing inputs, sets and so on; may be empty.
        mistakes: The most certain mistakes on the test part, the most certain first.
        findings: What is wrong with the table, each with kind, severity, rows, columns, evidence and remedy.
        sheets: Modality -> data URI of training pictures and of the views that were drawn of them.
    """

    title: str
    table: str
    label: str
    command: str
    created: str
    recipe: str
    seed: int
    classes: list[str]
    rows: dict[str, int]
    groups: dict[str, int] | None
    group_column: str | None
    split_how: str
    class_counts: dict[str, list[int]]
    inputs: list[Input]
    left_out: list[Input]
    probabilities: FloatArray
    labels: IntArray
    test: dict[str, Interval]
    valid: dict[str, Interval]
    gain: list[GainRow]
    comparisons: list[Comparison]
    curves: dict[str, list[EpochRecord]]
    best_epochs: dict[str, int]
    seconds: dict[str, float]
    encoder_passes: dict[str, int]
    encoder_passes_paper: int | None
    warnings: list[str]
    config: dict[str, Any]
    versions: dict[str, str]
    hashes: dict[str, str]
    analysis: dict[str, Any] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    findings: list[Any] = field(default_factory=list)
    sheets: dict[str, str] = field(default_factory=dict)
