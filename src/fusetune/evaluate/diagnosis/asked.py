"""The rows that a diagnosis asks about: where they stand in their table, and what the network says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.encoders import Encoder
from fusetune.evaluate.bootstrap import clusters
from fusetune.evaluate.calibration import Judged
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import Probe
from fusetune.evaluate.temperature import Heat
from fusetune.inputs import Reader
from fusetune.networks import Network
from fusetune.networks.run import Change, changed_features
from fusetune.runtime import Runtime

ALL = "all inputs"  # what is done to all modalities at once is called so


@dataclass(frozen=True, eq=False)
class Asked:
    """Labelled rows of one table.

    Attributes:
        table: The table, as the model's schema reads it.
        sources: Its bound inputs, by modality.
        where: Positions of the rows in the table, int64 [rows].
        judged: What the network says of them, their labels, keys and groups, all [rows].
    """

    table: Table
    sources: Mapping[str, Source]
    where: Rows
    judged: Judged

    def some(self, rows: Any) -> Asked:
        """Keep some rows, by position or mask."""
        told = self.judged
        groups = None if told.groups is None else told.groups[rows]
        outputs, labels, keys = told.outputs.some(rows), told.labels[rows], told.keys[rows]
        judged = replace(told, outputs=outputs, labels=labels, keys=keys, groups=groups)
        return replace(self, where=self.where[rows], judged=judged)

    def has(self, modality: str) -> Any:
        """Return which rows have a modality, bool [rows]."""
        return self.judged.outputs.present[modality].numpy()

    @property
    def group_count(self) -> int | None:
        """Number of groups; None where rows are not grouped."""
        groups = self.judged.groups
        return None if groups is None else clusters(groups, len(groups)).count

    def __len__(self) -> int:
        return len(self.where)


@dataclass(frozen=True, eq=False)
class Diagnosed:
    """What a diagnosis needs of a saved model.

    Attributes:
        network: Its network, frozen and in eval mode.
        readers: Fitted pre-processing by modality.
        temperature: Logits are divided by it.
        runtime: Device and precision.
    """

    network: Network
    readers: Mapping[str, Reader]
    temperature: Heat
    runtime: Runtime

    @property
    def modalities(self) -> list[str]:
        """The modalities that the network reads, in its order."""
        return list(dict.fromkeys(self.network.owners))

    def probe(self, asked: Asked) -> Probe:
        """Return the network beside what it says of some rows, to be asked again."""
        return Probe(self.network, asked.judged.outputs, self.temperature, measure=asked.judged.measure)

    def encode(
        self,
        modality: str,
        asked: Asked,
        changes: list[Change],
        description: str,
        *,
        source: Source | None = None,
        encoders: list[Encoder] | None = None,
    ) -> list[Tensor]:
        """Return features of some rows after each change of what the encoders see (see `changed_features`).

        Args:
            modality: The modality.
            asked: The rows.
            changes: Each takes encoder inputs and positions in the table.
            description: What the progress bar says.
            source: Other inputs of the same rows; default: those of the table.
            encoders: Other encoders; default: the network's own.
        """
        return changed_features(
            self.network.of(modality) if encoders is None else encoders,
            self.readers[modality],
            asked.sources[modality] if source is None else source,
            asked.where,
            changes,
            runtime=self.runtime,
            description=description,
        )


def as_it_is(inputs: Any, rows: Rows) -> Any:
    """Change nothing."""
    del rows
    return inputs


def plain_answers(probe: Probe) -> FloatArray:
    """Return what the network answers to unchanged features, ``float [rows, width]``: what changes are compared with.

    With `evaluate.test_views` a prediction is a mean over views, and features are those of the plain inputs alone.
    """
    return probe.again(probe.outputs.present)
