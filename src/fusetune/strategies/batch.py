"""One multi-modal batch: every row freshly augmented, and mixed with one partner in all modalities and the label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fusetune.augment.mix import BAG, EMBEDDED, Mixing, mix_batch, plain_loss
from fusetune.augment.random import Moment
from fusetune.config import StageConfig
from fusetune.context import Context
from fusetune.data.bags import element_counts
from fusetune.data.batch import ordered_batches, prefetch
from fusetune.data.split import Rows
from fusetune.heads.base import drop_modalities
from fusetune.networks import Network, Outputs
from fusetune.networks.run import present_bits, read_present
from fusetune.targets import Classification, Target

Present = dict[str, npt.NDArray[np.bool_]]
# (bool [rows] by modality, row keys, moment) -> what is left of it.
Drop = Callable[[Present, Tensor, Moment], Present]


@dataclass(frozen=True)
class Batch:
    """Rows on their way through a network; with several views, all rows of the first come before the next.

    Attributes:
        rows: Row positions, each once.
        inputs: Encoder inputs by modality, of the rows that have it, mixed where they can be.
        present: bool [views x rows] by modality.
        target: Labels as losses take them: class index, int64 [views x rows].
        weight: Loss weight, float [views x rows].
        mixing: Partner and weight of each row; None: nothing is mixed.
        smoothing: Label smoothing.
        epoch: Number of the epoch whose views it holds.
        unmixed: Modalities whose features are still to be mixed, since their inputs have no mean.
        predicted: What is predicted.
    """

    rows: Rows
    inputs: dict[str, Any]
    present: dict[str, Tensor]
    target: Tensor
    weight: Tensor
    mixing: Mixing | None
    smoothing: float
    epoch: int
    unmixed: frozenset[str]
    predicted: type[Target] = Classification

    def features(self, network: Network) -> dict[str, Tensor]:
        """Run the encoders, and mix the features of those whose inputs could not be mixed, [views x rows, dim]."""
        z = network.encode(self.inputs, self.present)
        return {
            name: self.mixing.blend(own) if self.mixing and name in self.unmixed else own for name, own in z.items()
        }

    def fewer(self, ctx: Context) -> dict[str, Tensor]:
        """Return what is present after modality dropout (`head.modality_dropout`), as trained heads see it."""
        share = ctx.config.head.modality_dropout
        if not share:
            return self.present
        return self.left(ctx, lambda present, keys, moment: drop_modalities(present, keys, moment, share))

    def left(self, ctx: Context, drop: Drop) -> dict[str, Tensor]:
        """Return what is present after something was taken away, anew in every view; of one modality, all of it."""
        if len(self.present) < 2:
            return self.present
        keys, repeats = ctx.row_keys(self.rows).cpu(), len(self.target) // len(self.rows)
        bits = {name: own[: len(self.rows)].cpu().numpy() for name, own in self.present.items()}
        views = [drop(bits, keys, ctx.moment(self.epoch, view)) for view in range(repeats)]
        return {
            name: torch.from_numpy(np.concatenate([view[name] for view in views])).to(own.device)
            for name, own in self.present.items()
        }

    def losses(self, logits: Tensor) -> Tensor:
        """Return the weighted loss of each row with its (mixed, smoothed) label, float [views x rows]."""
        how = (self.target, self.weight, self.smoothing, self.predicted.losses)
        return plain_loss(logits, *how) if self.mixing is None else self.mixing.loss(logits, *how)

    def loss(self, logits: Tensor, has: Tensor | None = None) -> Tensor:
        """Return the mean loss over the rows, or over those where `has`; zero where there are none."""
        losses = self.losses(logits)
        return losses.mean() if has is None else (losses * has).sum() / has.sum().clamp(min=1)


def draw_batch(
    ctx: Context,
    names: Sequence[str],
    rows: Rows,
    raw: Mapping[str, Any],
    weight: Tensor,
    epoch: int,
    loop: StageConfig,
) -> Batch:
    """Draw `loop.repeats` views of some rows.

    Args:
        ctx: The run.
        names: The modalities that are looked at.
        rows: Row positions.
        raw: Raw inputs by modality, of the rows that have it.
        weight: Loss weight of each row, float [rows].
        epoch: With the view, decides what is drawn.
        loop: Views, mixing and label smoothing.
    """
    present = {
        name: bits for name, bits in present_bits(ctx.sources, rows, ctx.runtime.device).items() if name in names
    }
    inputs = {
        name: ctx.augmented(name, raw[name], rows[present[name].cpu().numpy()], epoch, loop.repeats)
        for name in names if name in raw
    }  # fmt: skip
    views = {name: bits.repeat(loop.repeats) for name, bits in present.items()}
    kinds: dict[str, str] = {name: BAG if ctx.modalities[name].several else ctx.modalities[name].kind for name in names}
    moments = [ctx.moment(epoch, view) for view in range(loop.repeats)]
    inputs, mixing = mix_batch(inputs, kinds, present, ctx.row_keys(rows), moments, loop.mix)
    unmixed = frozenset(name for name, kind in kinds.items() if kind in EMBEDDED)
    target, weight = ctx.targets(rows), weight.to(ctx.runtime.device).repeat(loop.repeats)
    target = target.repeat(loop.repeats, *[1] * (target.ndim - 1))
    how = (loop.label_smoothing, epoch, unmixed, type(ctx.target))
    return Batch(rows, inputs, views, target, weight, mixing, *how)


def plain_outputs(
    ctx: Context, network: Network, names: Sequence[str], rows: Rows, size: int
) -> Iterator[tuple[Rows, Outputs]]:
    """Yield what a network says of plain inputs of some rows, batch by batch of `size`, without gradients.

    The network says it in the mode that it is in; see `judging`.
    """
    sources = {name: ctx.sources[name] for name in names}
    lengths = sources[names[0]].lengths if len(names) == 1 else None
    batches = ordered_batches(rows, size, lengths, element_counts(sources.values()))
    for some, raw in prefetch(batches, lambda some: (some, read_present(sources, some))):
        with torch.inference_mode(), ctx.runtime.autocast():
            inputs = {name: ctx.plain(name, own) for name, own in raw.items()}
            outputs = network(inputs, present_bits(sources, some, ctx.runtime.device)).to_float()
        yield some, outputs


@contextmanager
def judging(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for as long as a block takes, and every part of it back into its own mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def validate(ctx: Context, network: Network, names: Sequence[str], rows: Rows, size: int) -> tuple[float, float]:
    """Return mean loss and score of what is said on plain inputs of some rows, in batches of `size`."""
    network.eval()
    nll, hits = 0.0, 0.0
    for some, outputs in plain_outputs(ctx, network, names, rows, size):
        target = ctx.targets(some)
        nll += float(ctx.target.losses(outputs.f, target).sum())
        hits += float(ctx.target.scores(outputs.f, target).sum())
    return nll / max(len(rows), 1), hits / max(len(rows), 1)
