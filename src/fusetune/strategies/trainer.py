"""Networks of one modality or of several are trained by the same code: batches, rates, checkpoints and the record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fusetune.config import EncoderConfig, StageConfig, TrainConfig
from fusetune.context import Context
from fusetune.data.batch import shuffled_batches
from fusetune.data.split import Rows
from fusetune.encoders import Bagged, Encoder
from fusetune.encoders.lora import add_lora, merge_lora
from fusetune.errors import ConfigError
from fusetune.files import cleaned
from fusetune.networks import Network
from fusetune.process import Draws
from fusetune.ranks import Ranks
from fusetune.strategies.batch import Batch, draw_batch, read_batch, validate
from fusetune.train.checkpoint import Checkpoints
from fusetune.train.loop import Keep, Task, train
from fusetune.train.optim import encoder_groups, weight_groups
from fusetune.train.sharded import Shards, shard

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Training:
    """What is trained, on what, and by which gradients.

    Attributes:
        stage: For progress, checkpoints and the record.
        module: What is saved and restored: the network, and what a method keeps beside it.
        network: The network.
        encoders: The settings of each encoder that may move, by modality.
        loop: Epochs, batches and schedule.
        groups: Parameter groups of everything else that learns.
        rows: Rows to learn from.
        held: Rows that the best epoch is chosen on.
        gradients: (batch, share) -> mean loss; adds `share` times its gradient to every `.grad`.
        weight: Loss weight per row of the table, float32 [rows].
        start_counts: Is the network before the first step a candidate?
        before_epoch: Told the epoch's number before its first batch.
        before_step: Called once per optimiser step, before gradients are clipped; returns factors on the step of each
            modality's encoder.
        keep: What makes an epoch the best, as for `train`.
        drawn: Epoch -> the epoch whose random views it sees.
    """

    stage: str
    module: nn.Module
    network: Network
    encoders: Mapping[str, EncoderConfig]
    loop: StageConfig
    groups: list[dict[str, object]]
    rows: Rows
    held: Rows
    gradients: Callable[[Batch, float], float]
    weight: npt.NDArray[np.float32]
    start_counts: bool = True
    before_epoch: Callable[[int], None] = lambda epoch: None
    before_step: Callable[[], Mapping[str, float]] = dict
    keep: Keep = "nll"
    drawn: Callable[[int], int] = lambda epoch: epoch


def by_batch(ctx: Context, loss: Callable[[Batch], Tensor]) -> Callable[[Batch, float], float]:
    """Return the plain way to gradients: one loss, the mean over a batch, and one backward pass."""

    def gradients(batch: Batch, share: float) -> float:
        with ctx.runtime.autocast():
            mean = loss(batch)
        (mean * share).backward()  # type: ignore[no-untyped-call]
        return float(mean.detach())

    return gradients


def run_training(ctx: Context, what: Training) -> None:
    """Train, leave the module frozen with the weights of the best epoch, and write down what happened.

    Raises:
        NonFiniteLossError: If a loss or gradient is NaN or infinite; names the rows behind it.
    """
    names, network, loop, ranks = list(what.encoders), what.network, what.loop, ctx.runtime.ranks
    _refuse_impossible(ctx, what)
    double = ctx.runtime.precision == "64"
    if double:
        what.module.double()
    ranks.alike(what.module)
    shards = _sharded(ctx, what) if ranks.sharded else None
    encoders = dict(network.members)
    with Draws(ctx.config.seed, "adapters", what.stage):
        opened = [(name, group) for name in names for group in _opened(encoders[name], what.encoders[name])]
        groups = [{**group, "owner": name} for name, group in opened] + what.groups

    def before_epoch(epoch: int) -> None:
        what.before_epoch(epoch)
        ranks.alike(what.module)
        ranks.begin(ctx.config.seed, what.stage, epoch)

    task = Task(
        name=what.stage,
        batches=lambda epoch: _batches(ctx, what, epoch),
        read=lambda rows, epoch: read_batch(ctx, names, rows, what.drawn(epoch), loop),
        gradients=lambda rows, raw, epoch, share: _gradients(ctx, what, rows, raw, epoch, share),
        validate=lambda: ranks.agree(validate(ctx, network, names, what.held, max(32, loop.batch_size))),
        set_training=lambda: _set_training(what, encoders),
        row_name=lambda row: str(ctx.ids.iloc[row]),
        repeats=loop.repeats,
        words=(ctx.target.loss_word, ctx.target.score_word),
        before_epoch=before_epoch,
        before_step=what.before_step,
    )
    ctx.histories[what.stage] = train(
        what.module, groups, task, loop,
        runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log, checkpoints=_checkpoints(ctx, what), resume=ctx.resume,
        start_counts=what.start_counts, keep=what.keep, over=ctx.over,
    )  # fmt: skip
    if shards is not None:
        shards.restore()
    for name, settings in what.encoders.items():
        if settings.lora_rank:
            merge_lora(_adapted(encoders[name]))
        ctx.trained_rows[name] += ctx.histories[what.stage].rows_seen
    if double:
        what.module.float()
    freeze(what.module)


def seconds_a_row(ctx: Context, what: Training, rows: int, limit: float) -> float:
    """Return how long a row takes in training: read, drawn anew, forward and backward. The module is of no use after.

    All ranks ask together. Nobody's random numbers are used up.

    Args:
        ctx: The run.
        what: As for `run_training`; nothing of it is kept.
        rows: About how many are timed, in batches as an epoch has them.
        limit: Seconds after which no batch is begun.

    Raises:
        ConfigError: If it could not be trained.
    """
    _refuse_impossible(ctx, what)
    names, encoders, batches = list(what.encoders), dict(what.network.members), _batches(ctx, what, 0)
    if not batches:
        return 0.0
    some = batches[:: max(1, len(batches) * what.loop.batch_size // rows)]
    with Draws(ctx.config.seed, "timed", what.stage):
        if ctx.runtime.precision == "64":
            what.module.double()
        for name in names:
            _opened(encoders[name], what.encoders[name])
        _set_training(what, encoders)
        # The first makes ready whatever is made ready once.
        started, timed = 0.0, 0
        for place, batch in enumerate([some[0], *some]):
            if place == 1:
                started = time.perf_counter()
            elif place and ctx.runtime.ranks.agree(time.perf_counter() - started > limit):
                break
            raw = read_batch(ctx, names, batch, what.drawn(0), what.loop)
            _gradients(ctx, what, batch, raw, 0, 1.0)
            timed += len(batch) if place else 0
        return (time.perf_counter() - started) / timed


def _batches(ctx: Context, what: Training, epoch: int) -> list[Rows]:
    """Return the batches of an epoch; of one modality, rows of like length share one."""
    names = list(what.encoders)
    lengths = ctx.sources[names[0]].lengths if len(names) == 1 else None
    return shuffled_batches(what.rows, what.loop.batch_size, ctx.config.seed, epoch, lengths)


def _gradients(ctx: Context, what: Training, rows: Rows, raw: dict[str, Any], epoch: int, share: float) -> float:
    """Draw a batch of rows that were read, and add its gradients; return its loss."""
    weight = torch.from_numpy(what.weight[rows])
    batch = draw_batch(ctx, list(what.encoders), rows, raw, weight, what.drawn(epoch), what.loop)
    return what.gradients(batch, share)


def _sharded(ctx: Context, what: Training) -> Shards:
    """Divide the encoders among the ranks, unless something is asked for that needs whole ones."""
    if what.loop.average:
        raise ConfigError("a moving average of the weights needs whole ones: leave out train.average, or --sharded")
    if any(settings.lora_rank for settings in what.encoders.values()):
        raise ConfigError(
            "low-rank adapters stand beside whole weights, and train few: leave out train.lora_rank, or --sharded"
        )
    return shard(what.network.encoders, ctx.runtime.ranks, ctx.runtime.device)


def _refuse_impossible(ctx: Context, what: Training) -> None:
    """Refuse settings that no batch could follow."""
    inputs = [ctx.modalities[name] for name in what.encoders]
    if what.loop.mix.kind == "cutmix" and {one.several for one in inputs if one.kind == "image"} == {True}:
        raise ConfigError("mix.kind cutmix pastes rectangles, and each row has any number of pictures; use mixup")
    _refuse_small_batches(what.loop, ctx.runtime.ranks)


def _refuse_small_batches(loop: StageConfig, ranks: Ranks) -> None:
    if ranks.count > 1 and ranks.sizes(loop.batch_size) is None:
        raise ConfigError(
            f"batches of {loop.batch_size} rows cannot be divided among {ranks.count} ranks, each of which takes at "
            "least two; start fewer ranks (--devices), or make train.batch_size larger"
        )


def _opened(encoder: Encoder, settings: EncoderConfig) -> list[dict[str, object]]:
    """Make an encoder ready for training and return its parameter groups."""
    if settings.lora_rank:
        add_lora(_adapted(encoder), settings.lora_rank, alpha=2.0 * settings.lora_rank)
    # What begins from nothing learns at the rate of the classifier, where that has one of its own.
    rate = settings.head_lr if isinstance(settings, TrainConfig) else settings.lr
    fresh = weight_groups(encoder.fresh(), rate, settings.weight_decay)
    return encoder_groups(encoder.blocks(), settings) + fresh


def _adapted(encoder: Encoder) -> Encoder:
    """Return the part of an encoder that low-rank adapters stand beside."""
    return encoder.base if isinstance(encoder, Bagged) else encoder


def _checkpoints(ctx: Context, what: Training) -> Checkpoints | None:
    if ctx.folder is None:
        return None
    encoders = {name: settings.model_dump(mode="json") for name, settings in what.encoders.items()}
    # By its rows, too: a teacher and a network that the head's rows were kept from are two networks of one modality.
    stage = hashlib.sha256(
        what.stage.encode("utf-8", "surrogatepass") + what.rows.tobytes() + b"|" + what.held.tobytes()
    ).hexdigest()
    words = f"{ctx.key} {stage} {what.loop.model_dump_json()} {encoders}"
    key = hashlib.sha256(words.encode()).hexdigest()
    # The folder does not depend on the table's content: a stage of another table is found, and refused.
    folder = ctx.folder / f"{cleaned(what.stage)}-{stage[:8]}"
    return Checkpoints(folder, key, what.loop.keep, ctx.log, ctx.runtime.ranks)


def _set_training(what: Training, encoders: Mapping[str, nn.Module]) -> None:
    what.module.train()
    for name, settings in what.encoders.items():
        for module in encoders[name].modules():
            if isinstance(module, _NORMS):
                fixed = settings.batch_norm == "frozen" or not any(p.requires_grad for p in module.parameters())
                module.train(not fixed)


def freeze(module: nn.Module) -> None:
    """Put a module into eval mode and switch its gradients off."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
