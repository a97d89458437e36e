"""What a model keeps of its training part to compare later rows and tables with: distances by modality, and counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load, save

from fusetune.evaluate.likeness import Likeness
from fusetune.evaluate.profile import Profile
from fusetune.files import parse_json


@dataclass(frozen=True, eq=False)
class Reference:
    """The training part, as later rows and tables are compared with it.

    Attributes:
        profile: Counts per column, and of decisions on held-out rows.
        likeness: Modality -> what distances are compared with; those with too few rows are left out.
        ids: Modality -> the id of each of these rows; empty where ids must not go with the model.
    """

    profile: Profile
    likeness: dict[str, Likeness] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)

    def without_ids(self) -> Reference:
        """Return the same without the ids of training rows."""
        return replace(self, ids={})

    def files(self, modalities: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of two files: arrays, named by the place of a modality among all; and counts.

        A third one has the ids, where they are kept.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for place, name in enumerate(modalities):
            if name in self.likeness:
                arrays |= {f"{place}.{what}": array for what, array in self.likeness[name].arrays().items()}
        files = {ARRAYS: save(arrays), COUNTS: self.profile.model_dump_json().encode()}
        if self.ids:
            ids = {str(place): self.ids[name] for place, name in enumerate(modalities) if name in self.ids}
            files[IDS] = json.dumps(ids, ensure_ascii=False).encode()
        return files

    @classmethod
    def read(
        cls, files: Mapping[str, bytes], modalities: Mapping[str, int], inputs: Sequence[str], classes: int
    ) -> Reference:
        """Read what `files` returned.

        Args:
            files: The contents.
            modalities: Every modality in the order of `files`, with its number of features.
            inputs: The input columns.
            classes: Number of classes.

        Raises:
            ValueError: If something in it does not fit the model.
        """
        profile = Profile.model_validate_json(files[COUNTS])
        profile.check(inputs, classes)
        parts: dict[str, dict[str, NDArray[Any]]] = {}
        for key, array in load(files[ARRAYS]).items():
            place, _, what = key.partition(".")
            parts.setdefault(place, {})[what] = array
        places = {str(place): (name, dim) for place, (name, dim) in enumerate(modalities.items())}
        if strange := parts.keys() - places.keys():
            raise ValueError(f"distances of inputs {strange} that the model does not have")
        found = {name: Likeness.read(parts[place], dim) for place, (name, dim) in places.items() if place in parts}
        return cls(profile, found, _ids(files[IDS], places, found) if IDS in files else {})


def _ids(
    content: bytes, places: Mapping[str, tuple[str, int]], likeness: Mapping[str, Likeness]
) -> dict[str, list[str]]:
    """Read the ids of training rows, one for each that distances are measured to."""
    listed = parse_json(content)
    if not isinstance(listed, dict) or {places[place][0] for place in listed} != likeness.keys():
        raise ValueError("ids of other inputs than those that distances are kept of")
    found = {places[place][0]: ids for place, ids in listed.items()}
    for name, ids in found.items():
        whole = isinstance(ids, list) and all(isinstance(one, str) for one in ids)
        if not whole or len(ids) != len(likeness[name].rows):
            raise ValueError(f"ids of training rows that do not fit the distances of {name}")
    return found


ARRAYS, COUNTS, IDS = "reference.safetensors", "reference.json", "neighbours.json"
