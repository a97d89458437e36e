"""Networks over the rows of a table: each batch is read once, and an encoder that several networks share runs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusetune.augment.random import Moment
from fusetune.config import Config
from fusetune.data.bags import element_counts
from fusetune.data.batch import ordered_batches, prefetch
from fusetune.data.source import Source, to_device
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.inputs import Reader
from fusetune.networks.base import Network, Outputs, encoded
from fusetune.progress import Bar, bar
from fusetune.runtime import Runtime
from fusetune.targets import Classification, Target

Change = Callable[[Any, Rows], Any]
_BATCH = 64
# No training epoch and no view of the head has this number: what is drawn at prediction was never trained on.
_TEST_EPOCH = 2_000_000


def outputs_of(
    networks: Mapping[str, Network],
    readers: Mapping[str, Reader],
    sources: Mapping[str, Source],
    rows: Rows,
    *,
    config: Config,
    runtime: Runtime,
    description: str,
    batch_size: int = _BATCH,
    watched: Bar | None = None,
    target: type[Target] = Classification,
) -> dict[str, Outputs]:
    """Return what networks say of some rows, on the CPU; with `evaluate.test_views`, see `mean_view`.

    Args:
        networks: The networks by name.
        readers: Fitted pre-processing by modality.
        sources: Bound inputs by modality.
        rows: Row positions.
        config: How many views are drawn, and by which seed.
        runtime: Device and precision.
        description: What the progress bar says.
        batch_size: Rows per batch; rows with texts of like length come together, since all are padded to the longest.
        watched: A bar that moves on by rows instead of one of its own.
        target: What is predicted, which says what the mean of several views is.
    """
    several = [source.lengths for source in sources.values() if source.lengths is not None]
    lengths = np.sum(several, axis=0) if several else None
    ranks = runtime.ranks
    batches = ranks.mine(ordered_batches(rows, batch_size, lengths, element_counts(sources.values())))
    parts: dict[str, list[Outputs]] = {name: [] for name in networks}

    def read(batch: Rows) -> tuple[Rows, dict[str, Any]]:
        return batch, read_present(sources, batch)

    for network in networks.values():
        if any(module.training for module in network.modules()):
            network.eval()
    shown = bar(description, len(rows)) if watched is None else nullcontext(watched)
    with torch.inference_mode(), shown as progress:
        for batch, raw in prefetch(batches, read):
            present = present_bits(sources, batch, runtime.device)
            on_device = {name: to_device(some, runtime.device) for name, some in raw.items()}
            views: dict[str, list[Outputs]] = {name: [] for name in networks}
            for inputs in _views(readers, sources, batch, on_device, config, runtime):
                memory: dict[int, Tensor] = {}
                for name, network in networks.items():
                    with runtime.autocast():
                        views[name].append(network.fuse(network.encode(inputs, present, memory), present).to_cpu())
            for name, seen in views.items():
                parts[name].append(mean_view(seen, target))
            progress.advance(len(batch))
    whole = {name: Outputs.joined(ranks.merged(several)) for name, several in parts.items()}
    if lengths is None:
        return whole
    places = torch.from_numpy(np.argsort(np.argsort(lengths[rows], kind="stable"), kind="stable"))
    return {name: outputs.some(places) for name, outputs in whole.items()}


def changed_features(
    encoders: Sequence[Encoder],
    reader: Reader,
    source: Source,
    rows: Rows,
    changes: Sequence[Change],
    *,
    runtime: Runtime,
    description: str,
    batch_size: int = _BATCH,
) -> list[Tensor]:
    """Return features of one modality after each of several changes of what its encoders see, on the CPU.

    Each batch is read once, whatever the number of changes.

    Args:
        encoders: Encoders of the modality, in eval mode.
        reader: Its fitted pre-processing.
        source: Its bound inputs.
        rows: Row positions.
        changes: Each takes encoder inputs and the positions of their rows, and returns other inputs for them.
        runtime: Device and precision.
        description: What the progress bar says.
        batch_size: Rows per batch.

    Returns:
        One tensor per change, float32 [rows, dim], zero where the modality is absent.
    """
    batches = ordered_batches(rows, batch_size, counts=element_counts([source]))
    parts: list[list[Tensor]] = [[torch.zeros(0, sum(one.dim for one in encoders))] for _ in changes]

    def read(batch: Rows) -> tuple[Rows, Any]:
        have = batch[source.present[batch]]
        return batch, source.read(have) if len(have) else None

    with torch.inference_mode(), bar(description, len(batches)) as progress:
        for batch, raw in prefetch(batches, read):
            has = torch.from_numpy(source.present[batch]).to(runtime.device)
            plain = None if raw is None else reader.plain().plain(to_device(raw, runtime.device))
            for change, several in zip(changes, parts, strict=True):
                inputs = None if plain is None else change(plain, batch[source.present[batch]])
                with runtime.autocast():
                    several.append(encoded(encoders, inputs, has).float().cpu())
            progress.advance()
    return [torch.cat(several) for several in parts]


def read_present(sources: Mapping[str, Source], rows: Rows) -> dict[str, Any]:
    """Return raw inputs by modality, of the rows that have it; modalities that none has are left out."""
    have = {name: rows[source.present[rows]] for name, source in sources.items()}
    return {name: sources[name].read(some) for name, some in have.items() if len(some)}


def present_bits(sources: Mapping[str, Source], rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """Return which rows have each modality, bool [rows]."""
    return {name: torch.from_numpy(source.present[rows]).to(device) for name, source in sources.items()}


def mean_view(views: Sequence[Outputs], target: type[Target] = Classification) -> Outputs:
    """Return the mean of several views' probabilities as logits, beside the features of the first view.

    Probabilities, not logits: p(y | x) = E_v p(y | x, v) is what a classifier of random views says about a row, and one
    overconfident view has no more than its share in it. softmax(log p) = p gives the mean back exactly.
    """
    if len(views) == 1:
        return views[0]

    def mean(logits: Sequence[Tensor]) -> Tensor:
        return target.mean_of_views(torch.stack(list(logits)))

    f_m = {name: mean([view.f_m[name] for view in views]).float() for name in views[0].f_m}
    return replace(views[0], f_m=f_m, f=mean([view.f for view in views]).float())


def _views(
    readers: Mapping[str, Reader],
    sources: Mapping[str, Source],
    batch: Rows,
    raw: Mapping[str, Any],
    config: Config,
    runtime: Runtime,
) -> Iterator[dict[str, Any]]:
    """Yield the plain inputs, then `evaluate.test_views` random views of those inputs that have any.

    A view depends on the content of the input alone: not on the row's name or its place in the table, so that equal
    rows are predicted alike.
    """
    plain = {name: readers[name].plain().plain(some) for name, some in raw.items()}
    yield plain
    augments = {name: readers[name].test_augment(config) for name in raw}
    moments = [Moment(config.seed, _TEST_EPOCH, view) for view in range(config.evaluate.test_views)]
    for moment in moments if any(augments.values()) else []:
        views = {}
        for name, augment in augments.items():
            if augment is not None:
                digests = sources[name].digests[batch[sources[name].present[batch]]]
                views[name] = augment.draw(
                    raw[name], torch.from_numpy(digests.view("int64")).to(runtime.device), moment
                )
        yield plain | views
