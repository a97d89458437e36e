"""The only training loop: epochs of steps, validation after each, early stopping, checkpoints, exact resumption.

Everything random in an epoch is a function of (seed, epoch), so a run that is killed and resumed from the last epoch's
checkpoint ends with the same bits as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.config import LoopConfig
from fusetune.data.batch import prefetch
from fusetune.data.split import Rows
from fusetune.errors import NonFiniteLossError, listed
from fusetune.process import Draws
from fusetune.progress import Log, bar
from fusetune.runtime import Runtime
from fusetune.train.average import Average
from fusetune.train.checkpoint import Checkpoints, State
from fusetune.train.optim import build_optimiser, rate_factor, set_rate
from fusetune.train.sharded import clip, load, load_optimiser, whole

_WORTH_A_LINE = 1.0  # seconds
Keep = Literal["nll", "accuracy", "last"]


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did. Times in seconds; losses in nats."""

    epoch: int
    train_loss: float
    valid_nll: float
    valid_accuracy: float
    learning_rate: float
    seconds: float


@dataclass
class History:
    """What a training stage did.

    Attributes:
        records: One per epoch.
        start_nll: Validation NLL before the first step.
        best_epoch: Epoch whose weights the model has now; -1: those before the first step.
        rows_seen: Row passes through the encoder in training, for the cost table.
    """

    records: list[EpochRecord] = field(default_factory=list)
    start_nll: float = math.inf
    best_epoch: int = -1
    best_nll: float = math.inf
    best_accuracy: float = -1.0
    rows_seen: int = 0


@dataclass(frozen=True)
class Task:
    """What to train on.

    Attributes:
        name: For progress and messages.
        batches: epoch -> row positions of each batch.
        read: (row positions, epoch) -> raw inputs on CPU; runs in another thread, ahead of use.
        gradients: (rows, raw inputs, epoch, share) -> mean loss of the batch; adds `share` times the loss's gradient to
            every `.grad`, or to whatever `before_step` makes gradients from.
        validate: () -> (NLL, accuracy) on the validation part.
        set_training: Puts the model into training mode, frozen parts excepted.
        row_name: Row position -> id, for messages.
        repeats: How often each row of a batch goes through the model.
        before_epoch: Told the epoch's number before its first batch.
        words: What `validate`'s loss and score are called.
        before_step: Called once per optimiser step, when all of its batches' gradients are there and none is clipped;
            returns factors on the step of each modality's encoder, 1 where it names none.
    """

    name: str
    batches: Callable[[int], Sequence[Rows]]
    read: Callable[[Rows, int], Any]
    gradients: Callable[[Rows, Any, int, float], float]
    validate: Callable[[], tuple[float, float]]
    set_training: Callable[[], object]
    row_name: Callable[[int], str]
    repeats: int = 1
    words: tuple[str, str] = ("NLL", "accuracy")
    before_epoch: Callable[[int], None] = lambda epoch: None
    before_step: Callable[[], Mapping[str, float]] = dict


def by_loss(runtime: Runtime, loss: Callable[[Rows, Any, int], Tensor]) -> Callable[[Rows, Any, int, float], float]:
    """Return the plain way to gradients: one loss, (rows, raw inputs, epoch) -> its mean, and one backward pass."""

    def gradients(rows: Rows, raw: Any, epoch: int, share: float) -> float:
        with runtime.autocast():
            mean = loss(rows, raw, epoch)
        (mean * share).backward()  # type: ignore[no-untyped-call]
        return float(mean.detach())

    return gradients


def train(
    model: nn.Module,
    groups: list[dict[str, object]],
    task: Task,
    settings: LoopConfig,
    *,
    runtime: Runtime,
    seed: int,
    log: Log,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    start_counts: bool = True,
    keep: Keep = "nll",
    over: Callable[[], bool] = lambda: False,
) -> History:
    """Train a model and leave it with the weights of the best epoch.

    Args:
        model: The model whose state is saved and restored.
        groups: Parameter groups for the optimiser, as `parameter_groups` returns them.
        task: Batches, loss and validation.
        settings: Optimiser and schedule.
        runtime: Device and precision.
        seed: Seeds dropout, per epoch.
        log: Receives a record per epoch.
        checkpoints: Where to save; None: nothing is saved.
        resume: Continue from the newest checkpoint, if there is one.
        start_counts: Do the weights before the first step compete with those of the epochs?
        keep: What makes an epoch the best: the lowest validation NLL, the highest validation accuracy (the first of
            equals), or being the last. With the latter two, the weights before the first step are not judged.
        over: Must training end? Asked after each epoch, and before the first.

    Raises:
        NonFiniteLossError: If a loss or gradient is NaN or infinite; names the rows behind it.
    """
    optimiser = build_optimiser(groups, settings)
    average = Average(model, settings.average) if settings.average else None
    history, best, finished = History(), copy.deepcopy(model.state_dict()), False
    start = 0
    saved = _saved(checkpoints, task, log) if checkpoints and resume else None
    if saved:
        start, finished = _restore(saved[0], model, optimiser, history, average), saved[0]["finished"]
        best = saved[1]["model"]
        log.say(f"  {task.name}: resuming after epoch {start} of {settings.epochs}")
    else:
        if keep == "nll":
            history.start_nll, accuracy = _validate(task, "before training")
            history.best_nll = history.start_nll if start_counts else math.inf
            log.say(f"  {task.name}: before training  {_told(task, history.start_nll, accuracy)}")
        if checkpoints:
            checkpoints.save_best({"model": whole(best), "epoch": -1})
    for epoch in range(start, settings.epochs):
        if finished or over():
            break
        started = time.perf_counter()
        loss = _run_epoch(model, optimiser, task, settings, epoch, runtime, seed, history, average)
        with average.applied() if average else nullcontext():
            nll, accuracy = _validate(task, f"after epoch {epoch + 1}")
            candidate = copy.deepcopy(model.state_dict()) if _is_better(history, nll, accuracy, keep) else None
        rate = float(optimiser.param_groups[-1]["lr"])
        record = EpochRecord(epoch, loss, nll, accuracy, rate, time.perf_counter() - started)
        history.records.append(record)
        log.record("epoch", stage=task.name, **asdict(record))
        if candidate is not None:
            history.best_nll, history.best_accuracy, history.best_epoch = nll, accuracy, epoch
            best = candidate
            if checkpoints:
                checkpoints.save_best({"model": whole(best), "epoch": epoch})
        # The start can be hard to beat for a few epochs: patience counts from the best epoch of training.
        stale = epoch - min(history.records, key=lambda r: r.valid_nll).epoch
        finished = bool(settings.patience) and stale >= settings.patience
        last = finished or epoch + 1 == settings.epochs
        # Forty lines from a network that trains in a second tell nobody anything; the log file has them all.
        if last or record.seconds > _WORTH_A_LINE:
            log.say(
                f"  {task.name}: epoch {epoch + 1}/{settings.epochs}  train loss {loss:.3f}  "
                f"{_told(task, nll, accuracy)}  {record.seconds:.0f} s"
                + ("" if history.best_epoch == epoch else f"  (best: {_moment(history.best_epoch)})")
                + ("  no better for a while: stopping" if finished else "")
            )
        if checkpoints:
            checkpoints.save(epoch, _state(model, optimiser, history, finished, average))
    load(model, best)
    return history


def _told(task: Task, nll: float, accuracy: float) -> str:
    loss, score = task.words
    return f"valid {loss} {nll:.3f}  {score} {accuracy:.1%}"


def _is_better(history: History, nll: float, accuracy: float, keep: Keep) -> bool:
    return {"nll": nll < history.best_nll, "accuracy": accuracy > history.best_accuracy, "last": True}[keep]


def _moment(epoch: int) -> str:
    return f"epoch {epoch + 1}" if epoch >= 0 else "before training"


def _run_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    task: Task,
    settings: LoopConfig,
    epoch: int,
    runtime: Runtime,
    seed: int,
    history: History,
    average: Average | None,
) -> float:
    draws, batches = Draws(seed, task.name, epoch), task.batches(epoch)
    steps = math.ceil(len(batches) / settings.accumulate)
    task.set_training()
    with draws:
        task.before_epoch(epoch)
    total, count, pending = 0.0, 0, []
    optimiser.zero_grad(set_to_none=True)
    with bar(f"{task.name}, epoch {epoch + 1}/{settings.epochs}", len(batches)) as progress:
        for index, (rows, raw) in enumerate(prefetch(batches, lambda rows: (rows, task.read(rows, epoch)))):
            pending.append(rows)
            first = index - index % settings.accumulate
            with draws:
                value = task.gradients(rows, raw, epoch, 1 / min(settings.accumulate, len(batches) - first))
            if not math.isfinite(value):
                raise _not_finite("loss", value, task, optimiser, epoch, rows)
            if (index + 1) % settings.accumulate == 0 or index + 1 == len(batches):
                with draws:
                    owners = task.before_step()
                rate = rate_factor(epoch * steps + index // settings.accumulate, settings.epochs * steps, settings)
                set_rate(optimiser, rate, owners)
                norm = _step(model, optimiser, settings.clip)
                if not math.isfinite(norm):
                    raise _not_finite("gradient", norm, task, optimiser, epoch, np.concatenate(pending))
                pending.clear()
                if average:
                    average.update()
            total, count = total + value * len(rows), count + len(rows)
            progress.advance(note=f"loss {total / count:.3f}")
    history.rows_seen += count * task.repeats
    return total / count


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, most: float) -> float:
    """Take one step and return the norm of the gradient before clipping."""
    norm = clip(model.parameters(), most or math.inf)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(norm)


def _validate(task: Task, when: str) -> tuple[float, float]:
    nll, accuracy = task.validate()
    if math.isnan(nll):
        raise NonFiniteLossError(f"{task.name}: the validation NLL is NaN {when}; lower train.lr or look at the rows")
    return nll, accuracy


def _not_finite(
    what: str, value: float, task: Task, optimiser: torch.optim.Optimizer, epoch: int, rows: Rows
) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"{task.name}: the {what} became {value} in epoch {epoch + 1}; the rows behind it are "
        f"{listed((task.row_name(int(row)) for row in rows), 64)}. Look at these rows, or lower train.lr "
        f"(now {max(group['base_lr'] for group in optimiser.param_groups):g}) or use train.clip"
    )


def _state(
    model: nn.Module, optimiser: torch.optim.Optimizer, history: History, finished: bool, average: Average | None
) -> State:
    return {
        "model": whole(model.state_dict()),
        "optimiser": whole(optimiser.state_dict()),
        "history": asdict(history),
        "finished": finished,
        "average": average.state() if average else {},
    }


def _saved(checkpoints: Checkpoints, task: Task, log: Log) -> tuple[State, State] | None:
    """Return the newest state to go on from and the best weights that go with it; None: the stage begins anew."""
    state = checkpoints.latest()
    best = None if state is None else checkpoints.best()
    if state is None or best is None:
        return None
    # After a damaged file, the best weights may be those of an epoch that is now trained again, to the same bits.
    later = best["epoch"] >= len(state["history"]["records"]) and not state["finished"]
    if best["epoch"] != state["history"]["best_epoch"] and not later:
        log.warn(f"{task.name}: the best weights in {checkpoints.folder} are of another epoch; the stage begins anew")
        return None
    return state, best


def _restore(
    saved: State, model: nn.Module, optimiser: torch.optim.Optimizer, history: History, average: Average | None
) -> int:
    load(model, saved["model"])
    load_optimiser(optimiser, saved["optimiser"])
    values = dict(saved["history"])
    history.records = [EpochRecord(**record) for record in values.pop("records")]
    for name, value in values.items():
        setattr(history, name, value)
    if average:
        average.restore(**saved["average"])
    return len(history.records)
