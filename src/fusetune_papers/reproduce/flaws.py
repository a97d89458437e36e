"""The sixteen flaws of the published procedure, each a switch with its evidence and its repair.

The recipe `paper` turns every switch on, `sound` none; `--flaws L4,L5` turns single ones on on top of `sound`, which
shows what each is worth. The numbers behind the evidence were computed from the printed outputs of the notebooks and
from the public annotations; nothing here needs the authors' predictions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fusetune.errors import ConfigError, did_you_mean

FPUS23, FOOD101, PHANTOM = "fpus23", "upmc-food101", "phantom"
DATA = (FPUS23, FOOD101, PHANTOM)


@dataclass(frozen=True)
class Flaw:
    """One difference between the published procedure and a sound one.

    Attributes:
        name: L1 to L16.
        title: What is done, in a few words.
        evidence: Why it matters, with the numbers that are known.
        repair: What `sound` does instead.
        elsewhere: Data set -> why the switch changes nothing there.
    """

    name: str
    title: str
    evidence: str
    repair: str
    elsewhere: dict[str, str] = field(default_factory=dict)

    @property
    def pictures(self) -> bool:
        """Does it act only where there are pictures?"""
        return self.name in _OF_PICTURES


_OF_PICTURES = ("L3", "L6", "L8", "L10", "L11", "L12", "L13", "L14", "L15", "L16")
_NO_TEXT = {FPUS23: "no text network is part of these experiments"}
_NO_STREAMS = {FOOD101: "its rows are single photographs, not frames of a video"}

_ALL = (
    Flaw(
        "L1",
        "split by frame",
        "consecutive frames of a video carry the same label in 99.3 to 99.7 % of cases, so that the nearest training "
        "frame alone predicts the test frame: head .997, abdomen .995, arms .993, legs .998",
        "whole streams go to one part",
        _NO_STREAMS,
    ),
    Flaw(
        "L2",
        "no baseline of the side information alone",
        "the location alone decides 'head' in .9053 of the frames, more than the traditional multimodal model (.857); "
        "a constant per stream decides .9606",
        "metadata-only and nearest-frame baselines are printed beside every result",
        _NO_STREAMS,
    ),
    Flaw(
        "L3",
        "image network fine-tuned on the validation rows",
        "it sees the whole training folder; validation rows are drawn from that folder afterwards "
        "(validation .987 beside test .926)",
        "the rows are divided once, before anything is trained",
        {FPUS23: "its notebooks share three files of rows, so validation frames are not trained on"},
    ),
    Flaw(
        "L4",
        "the head learns from in-sample text scores",
        "the text network is right on .8915 of the rows that it was trained on and on .8336 of others, so the head "
        "learns to trust it too much",
        "out-of-fold scores: those of a network that did not see the row",
        _NO_TEXT,
    ),
    Flaw(
        "L5",
        "validation rows are training rows",
        "67,970 training rows contain all 6,797 validation rows",
        "the rows are divided once, before anything is trained",
        {FPUS23: "its notebooks use disjoint files of rows"},
    ),
    Flaw(
        "L6",
        "text scores of other rows",
        "one title is dropped without renumbering and the tables are put side by side: 28,632 of 67,970 rows (42.1 %) "
        "get the scores of the row after them",
        "scores are joined by row id",
        _NO_TEXT,
    ),
    Flaw(
        "L7",
        "the first class is never learned",
        "labels are shifted by one and the first class becomes the index that the loss ignores",
        "every class has its own index",
        {**_NO_TEXT, PHANTOM: "with two classes, nothing would be left to learn"},
    ),
    Flaw(
        "L8",
        "the test part chooses the image network's epoch",
        "the notebooks on Food-101 have no validation part in stage U and keep the epoch with the best test accuracy",
        "the test part is locked until every choice has been made",
        {FPUS23: "there the validation part chooses"},
    ),
    Flaw(
        "L9",
        "padding counts in the mean over tokens",
        "what a title says depends on the longest title in its batch",
        "mean over the title's own tokens",
        _NO_TEXT,
    ),
    Flaw(
        "L10",
        "pixel statistics of another data set",
        "mean and deviation of CIFAR-100 with networks that were pretrained with others",
        "statistics from the configuration of the weights",
    ),
    Flaw(
        "L11",
        "flips beside columns that say which way is up",
        "a vertical flip contradicts 'head up' and the probe's orientation",
        "no flips where such columns are inputs",
        {FOOD101: "nothing there says which way is up: the flips stay in both recipes"},
    ),
    Flaw(
        "L12",
        "the frozen network runs in every epoch, with a gradient that nobody uses",
        "five epochs of one linear layer took 446 minutes and 487,415 image passes; costs time, changes no result",
        "every view is encoded once",
    ),
    Flaw(
        "L13",
        "batch-norm statistics drift in a network that counts as frozen",
        "it is in training mode, and only the head's weights are kept with the best epoch",
        "frozen means evaluation mode",
    ),
    Flaw(
        "L14",
        "location as a number from 0 to 4",
        "places have no order; and the last field of a stream's name is the probe's orientation, not invasiveness",
        "one column per place",
        {FOOD101: "it has no such columns"},
    ),
    Flaw(
        "L15",
        "a lost row, unequal batch sizes, one seed, no interval",
        "the first row is read as a header (67,971 of 67,972; 22,715 of 22,716); the compared runs have batches of 60 "
        "and 24",
        "all rows and one batch size, which is what the switch changes; intervals stand beside `paper` too, and --seed "
        "repeats either with other seeds",
        {
            FPUS23: "no row is lost and batches are equal there; intervals are always printed",
            PHANTOM: "no row is lost and batches are equal there; intervals are always printed",
        },
    ),
    Flaw(
        "L16",
        "raw scales and an unfinished head",
        "text scores with norms in the tens beside image features; a learning rate of 5e-4 for 3 to 5 epochs, after "
        "which the training accuracy still rises",
        "standardised blocks; multinomial logistic regression solved to convergence",
    ),
)
FLAWS = {flaw.name: flaw for flaw in _ALL}


def flaws_of(data: str) -> frozenset[str]:
    """Return the flaws that are part of the published experiments on a data set, or of all of them on the phantom."""
    return frozenset(flaw.name for flaw in _ALL if data not in flaw.elsewhere)


def chosen(names: Iterable[str], data: str) -> frozenset[str]:
    """Return the flaws of a list such as `["L4", "l5"]`, checked.

    Raises:
        ConfigError: A name is unknown, or the switch changes nothing on this data set; the message says why.
    """
    found = [name.strip().upper() for name in names if name.strip()]
    problems = [
        f"'{name}' is no flaw{did_you_mean(name, FLAWS)}; they are L1 to L16" for name in found if name not in FLAWS
    ]
    problems += [
        f"{name} ({FLAWS[name].title}) changes nothing on {data}: {FLAWS[name].elsewhere[data]}"
        for name in found
        if name in FLAWS and data in FLAWS[name].elsewhere
    ]
    if problems:
        raise ConfigError("--flaws: " + "; ".join(problems))
    return frozenset(found)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of flaws in the order of their numbers."""
    return sorted(names, key=lambda name: int(name[1:]))
