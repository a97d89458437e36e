"""What a strategy is, and what it leaves behind: all that judging, saving, serving and comparing need to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt

from fusetune.config import Section
from fusetune.context import Context, Cost
from fusetune.data.choices import TargetKind
from fusetune.data.split import Rows
from fusetune.networks import Network, Outputs
from fusetune.networks.run import outputs_of

ANY_TARGET: Final[tuple[TargetKind, ...]] = ("classification", "multilabel", "regression")
WHOLE: Final = None  # the key of the note on all modalities together: no input is called so


class NoSettings(Section):
    """Settings of a strategy that has none of its own."""


@dataclass(frozen=True)
class Fitted:
    """A fitted strategy.

    Attributes:
        network: The network, frozen.
        rows: Rows that `held` speaks of; the validation rows are among them.
        held: What is said of these rows by networks and heads that did not learn from them, z included.
        notes: What was done, in a few words: by modality, and under `WHOLE` for all together.
        cost: Seconds and encoder passes by stage; what was trained once for several strategies counts for each.
        tried: Logits of the validation rows by each candidate that the last step was chosen from, where that choice was
            made on these very rows, float64 [rows, classes] each; they make the calibration cross-fitted.
        parts: Other strategies that it was made of, by the names of their rows in the gain table.
    """

    network: Network
    rows: Rows
    held: Outputs
    notes: Mapping[str | None, str]
    cost: Cost
    tried: Sequence[npt.NDArray[np.float64]] = field(default_factory=list)
    parts: Mapping[str, Fitted] = field(default_factory=dict)

    def held_on(self, rows: Rows) -> Outputs:
        """Return what is said of some of the rows.

        Raises:
            ValueError: If nothing honest is known of one of them.
        """
        places = np.searchsorted(self.rows, rows)
        if not np.array_equal(self.rows[np.minimum(places, len(self.rows) - 1)], rows):
            raise ValueError("rows are asked for that nothing was held out for")
        return self.held.some(places)


class Strategy(Protocol):
    """A way to fit a network.

    Attributes:
        name: Its name in `strategy: {name: ...}`.
        title: What a model made so is called in a sentence: "the ... model".
        paper: Where it comes from, in words, with the arXiv number where there is one.
        cost: What it costs, in words, so that somebody can choose by it.
        Settings: Its own settings, a typed section.
        unread: Settings of the run that it does not read, so that they are refused where they ask for something.
        targets: Kinds of target that it is defined for.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[str] = "one training of all encoders"
    Settings: ClassVar[type[Section]] = NoSettings
    unread: ClassVar[tuple[str, ...]] = ("head.kind", "head.inputs", "head.pretrained", "head.blockwise")

    targets: ClassVar[tuple[TargetKind, ...]] = ("classification",)

    @classmethod
    def ignored(cls, settings: Any) -> tuple[str, ...]:
        """Return the settings of the run that it does not read under settings of its own."""
        return cls.unread

    @classmethod
    def unweighed(cls, settings: Any) -> str | None:
        """Return what of it takes all rows to count alike, as the rest of a sentence; None: it follows weights."""
        return None

    @classmethod
    def fit(cls, ctx: Context, settings: Any) -> Fitted:
        """Train on the training and validation rows of a run; the test part stays shut."""
        ...


def held_by(ctx: Context, network: Network, rows: Rows) -> Outputs:
    """Return what a network says of rows that it did not learn from."""
    how: dict[str, Any] = {"config": ctx.config, "runtime": ctx.runtime, "target": type(ctx.target)}
    return outputs_of(
        {"": network}, ctx.readers, ctx.sources, rows, **how, description="what it says of held-out rows"
    )[""]


def held_nll(ctx: Context, fitted: Fitted) -> float:
    """Return the NLL of what is said of held-out rows, in nats."""
    return ctx.nll(fitted.held.f.double().numpy(), fitted.rows)
