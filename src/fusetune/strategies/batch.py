"""One multi-modal batch: every row freshly augmented, and mixed with one partner in all modalities and the label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from fusetune.encoders import Encoder
from fusetune.heads.base import drop_modalities
from fusetune.networks import Network, Outputs
from fusetune.networks.divided import encode, encode_one
from fusetune.networks.run import present_bits
from fusetune.ranks import Ranks
from fusetune.targets import Classification, Target

Present = dict[str, npt.NDArray[np.bool_]]
# (bool [rows] by modality, row keys, moment) -> what is left of it.
Drop = Callable[[Present, Tensor, Moment], Present]


@dataclass(frozen=True)
class Batch:
    """Rows on their way through a network; with several views, all rows of the first come before the next.

    Attributes:
        rows: Row positions, each once.
        inputs: Encoder inputs by modality, of the rows that have it, mixed where they can be; with several ranks, of
            this one's share of them.
        present: bool [views x rows] by modality.
        target: Labels as losses take them: class index, int64 [views x rows].
        weight: Loss weight, float [views x rows].
        mixing: Partner and weight of each row; None: nothing is mixed.
        smoothing: Label smoothing.
        epoch: Number of the epoch whose views it holds.
        unmixed: Modalities whose features are still to be mixed, since their inputs have no mean.
        ranks: The processes that the encoders' passes are divided among; all but `inputs` is of the whole batch.
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
    ranks: Ranks = field(default_factory=Ranks)
    predicted: type[Target] = Classification

    def features(self, network: Network) -> dict[str, Tensor]:
        """Run the encoders, and mix the features of those whose inputs could not be mixed, [views x rows, dim]."""
        z = encode(network, self.inputs, self.present, self.views, self.ranks)
        return {
            name: self.mixing.blend(own) if self.mixing and name in self.unmixed else own for name, own in z.items()
        }

    def encoded(self, name: str, encoder: Encoder) -> Tensor:
        """Run one encoder of a modality, without mixing, [views x rows, dim]."""
        return encode_one(encoder, self.inputs.get(name), self.present[name], self.views, self.ranks)

    @property
    def views(self) -> int:
        """How many views of each row there are."""
        return len(self.target) // len(self.rows)

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
        keys = ctx.row_keys(self.rows).cpu()
        bits = {name: own[: len(self.rows)].cpu().numpy() for name, own in self.present.items()}
        views = [drop(bits, keys, ctx.moment(self.epoch, view)) for view in range(self.views)]
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


def own_rows(ctx: Context, name: str, rows: Rows, loop: StageConfig | None = None) -> Rows:
    """Return those of a batch's rows that have a modality and are read by this rank.

    These are its share, or all, where inputs are mixed with those of any other row.
    """
    have = rows[ctx.sources[name].present[rows]]
    mixed = loop is not None and loop.mix.kind != "off" and _kind(ctx, name) not in EMBEDDED
    return have if mixed else have[ctx.runtime.ranks.share(len(have))]


def read_batch(ctx: Context, names: Sequence[str], rows: Rows, epoch: int, loop: StageConfig) -> dict[str, Any]:
    """Return what this rank reads of a batch for training, by modality; what none has is left out."""
    found: dict[str, Any] = {}
    for name in names:
        found |= ctx.read([name], own_rows(ctx, name, rows, loop), epoch)
    return found


def _kind(ctx: Context, name: str) -> str:
    return BAG if ctx.modalities[name].several else ctx.modalities[name].kind


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
        raw: Raw inputs by modality, as `read_batch` returns them.
        weight: Loss weight of each row, float [rows].
        epoch: With the view, decides what is drawn.
        loop: Views, mixing and label smoothing.
    """
    present = {
        name: bits for name, bits in present_bits(ctx.sources, rows, ctx.runtime.device).items() if name in names
    }
    inputs = {
        name: ctx.augmented(name, raw[name], own_rows(ctx, name, rows, loop), epoch, loop.repeats)
        for name in names if name in raw
    }  # fmt: skip
    views = {name: bits.repeat(loop.repeats) for name, bits in present.items()}
    kinds = {name: _kind(ctx, name) for name in names}
    moments = [ctx.moment(epoch, view) for view in range(loop.repeats)]
    inputs, mixing = mix_batch(inputs, kinds, present, ctx.row_keys(rows), moments, loop.mix)
    unmixed = frozenset(name for name, kind in kinds.items() if kind in EMBEDDED)
    ranks = ctx.runtime.ranks
    if ranks.count > 1 and loop.mix.kind != "off":
        whole = [name for name in inputs if name not in unmixed]
        inputs |= {name: _own_share(inputs[name], loop.repeats, ranks) for name in whole}
    target, weight = ctx.targets(rows), weight.to(ctx.runtime.device).repeat(loop.repeats)
    target = target.repeat(loop.repeats, *[1] * (target.ndim - 1))
    how = (loop.label_smoothing, epoch, unmixed, ranks, type(ctx.target))
    return Batch(rows, inputs, views, target, weight, mixing, *how)


def _own_share(inputs: Any, views: int, ranks: Ranks) -> Any:
    """Return this rank's share of the inputs of a whole batch, [views x rows, ...]."""
    if isinstance(inputs, Tensor):
        rows = len(inputs) // views
        return inputs.view(views, rows, *inputs.shape[1:])[:, ranks.share(rows)].flatten(0, 1)
    return {name: _own_share(own, views, ranks) for name, own in inputs.items()}


def plain_outputs(
    ctx: Context, network: Network, names: Sequence[str], rows: Rows, size: int
) -> Iterator[tuple[Rows, Outputs]]:
    """Yield what a network says of plain inputs of some rows, batch by batch of `size`, without gradients.

    The network says it in the mode that it is in; see `judging`.
    """
    sources = {name: ctx.sources[name] for name in names}
    lengths = sources[names[0]].lengths if len(names) == 1 else None
    batches = ordered_batches(rows, size, lengths, element_counts(sources.values()))

    def read(some: Rows) -> tuple[Rows, dict[str, Any]]:
        own = {name: own_rows(ctx, name, some) for name in names}
        return some, {name: sources[name].read(have) for name, have in own.items() if len(have)}

    for some, raw in prefetch(batches, read):
        # Divided weights are put together in tensors that are used again with gradients.
        with torch.inference_mode(not ctx.runtime.ranks.sharded), torch.no_grad(), ctx.runtime.autocast():
            inputs = {name: ctx.plain(name, own) for name, own in raw.items()}
            present = present_bits(sources, some, ctx.runtime.device)
            outputs = network.fuse(encode(network, inputs, present, 1, ctx.runtime.ranks), present).to_float()
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
    """Return mean loss and score of what is said on plain inputs of some rows, as these count, in batches of `size`."""
    network.eval()
    nll, hits, count = 0.0, 0.0, max(ctx.total(torch.ones(len(rows), dtype=torch.float64), rows), 1e-12)
    for some, outputs in plain_outputs(ctx, network, names, rows, size):
        target = ctx.targets(some)
        nll += ctx.total(ctx.target.losses(outputs.f, target), some)
        hits += ctx.total(ctx.target.scores(outputs.f, target), some)
    return nll / count, hits / count
