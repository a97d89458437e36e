"""What a model keeps of its training part to compare later rows and tables with: distances by modality, and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load, save

from fusetune.evaluate.likeness import Likeness
from fusetune.evaluate.profile import Profile


@dataclass(frozen=True, eq=False)
class Reference:
    """The training part, as later rows and tables are compared with it.

    Attributes:
        profile: Counts per column, and of decisions on held-out rows.
        likeness: Modality -> what distances are compared with; those with too few rows are left out.
    """

    profile: Profile
    likeness: dict[str, Likeness] = field(default_factory=dict)

    def files(self, modalities: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of two files: arrays, named by the place of a modality among all; and counts."""
        arrays: dict[str, NDArray[Any]] = {}
        for place, name in enumerate(modalities):
            if name in self.likeness:
                arrays |= {f"{place}.{what}": array for what, array in self.likeness[name].arrays().items()}
        return {ARRAYS: save(arrays), COUNTS: self.profile.model_dump_json().encode()}

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
        return cls(profile, found)


ARRAYS, COUNTS = "reference.safetensors", "reference.json"
