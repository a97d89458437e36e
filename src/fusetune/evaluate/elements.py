"""Which of a row's pictures (or texts) carried its weight, and what within the strongest of them.

Every element is encoded once; leaving one out, or changing it, only pools the features of the others again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusetune.data.source import Bag
from fusetune.encoders import Bagged
from fusetune.evaluate.explain import Effect, batches, effects
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import Probe


@dataclass(frozen=True)
class RowOfElements:
    """The only row of a bag, to be asked about its elements.

    Attributes:
        probe: The model and what it says of the row.
        modality: The modality.
        bag: Its inputs.
        known: Features of the elements by encoder.
    """

    probe: Probe
    modality: str
    bag: Bag
    known: dict[int, Tensor] = field(default_factory=dict)

    def leaving_out(self) -> FloatArray:
        """Return how much the decision's probability loses without each element, ``float [elements]``."""
        count = len(self.bag.index)
        if count == 1:
            decision, present = int(self.probe.p[0].argmax()), self.probe.outputs.present
            without = {**present, self.modality: torch.zeros_like(present[self.modality])}
            self._encode()
            return np.asarray([self.probe.p[0, decision] - self.probe.again(without)[0, decision]])

        def without_each(some: Sequence[int]) -> Bag:
            kept = [torch.cat([self.bag.index[:at], self.bag.index[at + 1 :]]) for at in some]
            return self._bag(kept, self.known)

        return effects(self.probe, self.modality, *batches(without_each, range(count)))

    def attention(self) -> FloatArray | None:
        """Return the share of each element in the row's vector, where attention gives it; after `leaving_out`."""
        pools = [one for one in self._pools() if one.attention is not None]
        if not pools:
            return None
        row = torch.zeros_like(self.bag.index)
        with torch.inference_mode():
            shares = [one.weights(self.known[id(one.base)][self.bag.index], row, 1) for one in pools]
        return np.asarray(torch.stack(shares).mean(0).cpu().numpy(), dtype=np.float64)

    def named(self, names: Sequence[str], lost: FloatArray) -> list[Effect]:
        """Return the effects of elements that are called so, `lost` without them; attention stands beside the name."""
        shares = self.attention()
        told = [f" (attention {share:.0%})" for share in shares] if shares is not None else [""] * len(names)
        return [Effect(name + more, float(one)) for name, more, one in zip(names, told, lost, strict=True)]

    def changing(self, place: int) -> Callable[[Any], Bag]:
        """Return what makes a bag with a row for each change of one element's inputs; after `leaving_out`."""
        count, places = len(self.bag), torch.arange(len(self.bag.index), device=self.bag.index.device)

        def changed(inputs: Any) -> Bag:
            others, known = self.known, {}
            for base in (one.base for one in self._pools()):
                known[id(base)] = torch.cat([others[id(base)], base(inputs)])
            ends = {len(z) for z in known.values()}
            new = range(count, ends.pop())
            return self._bag([torch.where(places == place, number, self.bag.index) for number in new], known)

        return changed

    def _encode(self) -> None:
        """Let the encoders leave the features of the elements, where nothing else has asked for them."""
        with torch.inference_mode():
            for encoder in self.probe.network.of(self.modality):
                encoder(self._bag([self.bag.index], self.known))

    def _bag(self, rows: Sequence[Tensor], known: dict[int, Tensor]) -> Bag:
        """Return a bag of rows that have these elements each."""
        sizes = torch.tensor([len(row) for row in rows], device=self.bag.index.device)
        row = torch.arange(len(rows), device=sizes.device).repeat_interleave(sizes)
        index = torch.cat(list(rows))
        return Bag(self.bag.elements, index, row, torch.zeros_like(index), len(rows), self.bag.see, known)

    def _pools(self) -> list[Bagged]:
        encoders = self.probe.network.of(self.modality)
        return [part for encoder in encoders for part in encoder.modules() if isinstance(part, Bagged)]
