from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.config import Config, TrainConfig
from fusetune.errors import NonFiniteLossError, UserError
from fusetune.process import Draws
from fusetune.progress import Log
from fusetune.runtime import Runtime, start_runtime
from fusetune.train.checkpoint import Checkpoints, discard
from fusetune.train.loop import History, Task, train
from fusetune.train.optim import build_optimiser, encoder_groups, rate_factor, weight_groups

ROWS = np.arange(22)
QUIET = Log(quiet=True)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    yield start_runtime(Config(device="cpu", threads=1))


class Net(nn.Module):
    """Two blocks and a head, with dropout, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.last(self.dropout(hidden))


def make_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().double()


def make_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(len(ROWS), 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (len(ROWS),), generator=generator)


def batches(epoch: int) -> list[Any]:
    order = np.random.default_rng([3, epoch]).permutation(ROWS)
    return [order[i : i + 4] for i in range(0, len(order), 4)]  # five of 4 rows, one of 2


def plain_loss(model: Net, rows: Any) -> Tensor:
    x, y = make_data()
    return F.cross_entropy(model(x[rows]), y[rows])


def make_task(model: Net, validate: Callable[[], tuple[float, float]] | None = None, **more: Any) -> Task:
    x, y = make_data()
    loss = more.pop("loss", lambda rows, _, epoch: plain_loss(model, rows))

    def gradients(rows: Any, raw: Any, epoch: int, share: float) -> float:
        mean = loss(rows, raw, epoch)
        (mean * share).backward()
        return float(mean.detach())

    def judge() -> tuple[float, float]:
        model.eval()
        with torch.inference_mode():
            return float(F.cross_entropy(model(x), y)), 0.0

    facts = {"gradients": gradients, "read": lambda rows, epoch: None, "row_name": lambda row: f"row-{row}"} | more
    return Task("net", batches, validate=validate or judge, set_training=model.train, **facts)


def make_groups(model: Net, settings: TrainConfig) -> list[dict[str, object]]:
    blocks = [list(model.first.parameters()), list(model.second.parameters())]
    head = weight_groups(list(model.last.parameters()), settings.head_lr, settings.weight_decay)
    return encoder_groups(blocks, settings) + head


def run(model: Net, settings: TrainConfig, runtime: Runtime, task: Task | None = None, **more: Any) -> History:
    groups = make_groups(model, settings)
    return train(model, groups, task or make_task(model), settings, runtime=runtime, seed=5, log=QUIET, **more)


def naive(model: Net, settings: TrainConfig) -> list[dict[str, Tensor]]:
    """The same training written down without any of the library, one formula per line; returns weights per epoch."""
    x, y = make_data()
    rate = {"first": settings.lr * settings.layer_decay, "second": settings.lr, "last": settings.head_lr}
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    square = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    per_epoch = math.ceil(6 / settings.accumulate)
    steps, warm, done, kept = settings.epochs * per_epoch, settings.warmup * settings.epochs * per_epoch, 0, []
    mean = copy.deepcopy(model.state_dict())
    for epoch in range(settings.epochs):
        draws = Draws(5, "net", epoch)
        model.train()
        cut = batches(epoch)
        for start in range(0, len(cut), settings.accumulate):
            members = cut[start : start + settings.accumulate]
            with draws:
                loss = sum(F.cross_entropy(model(x[rows]), y[rows]) for rows in members) / len(members)
            gradients = dict(zip(velocity, torch.autograd.grad(loss, list(model.parameters())), strict=True))
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
            share = (done + 1) / (warm + 1) if done < warm else None
            if share is None:
                share = 0.5 * (1 + math.cos(math.pi * (done - warm) / (steps - warm)))
            done += 1
            for name, parameter in model.named_parameters():
                g = gradients[name] * (min(1.0, settings.clip / (norm + 1e-6)) if settings.clip else 1.0)
                lr = rate[name.split(".")[0]] * share
                decay = settings.weight_decay if parameter.ndim > 1 else 0.0
                with torch.no_grad():
                    if settings.optimiser == "sgd":
                        g = g + decay * parameter
                        velocity[name] = g if done == 1 else settings.momentum * velocity[name] + g
                        parameter.sub_(lr * velocity[name])
                    else:
                        parameter.mul_(1 - lr * decay)
                        velocity[name] = 0.9 * velocity[name] + 0.1 * g
                        square[name] = 0.999 * square[name] + 0.001 * g**2
                        size = (square[name] / (1 - 0.999**done)).sqrt() + 1e-8
                        parameter.sub_(lr * velocity[name] / (1 - 0.9**done) / size)
            past = min(settings.average, done / (9 + done))
            mean = {name: past * mean[name] + (1 - past) * value for name, value in model.state_dict().items()}
        kept.append(mean)
    return kept


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"clip": 0.05, "accumulate": 4, "layer_decay": 0.5, "warmup": 0.3, "weight_decay": 0.1},
        {"clip": 0.0, "warmup": 0.0, "accumulate": 2},
        {"average": 0.8},
    ],
)
def test_training_is_the_plain_loop(runtime: Runtime, optimiser: str, more: dict[str, Any]) -> None:
    rate = 0.02 if optimiser == "adamw" else 0.3
    settings = TrainConfig(optimiser=optimiser, lr=rate, head_lr=2 * rate, epochs=3, patience=0, **more)
    model, reference = make_net(), make_net()
    losses = iter([9.0, 3.0, 2.0, 1.0])  # ever better: the weights of the last epoch stay
    run(model, settings, runtime, make_task(model, lambda: (next(losses), 0.0)))
    expected = naive(reference, settings)[-1]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-11)
    assert not torch.equal(model.first.weight, make_net().first.weight)


def test_one_step_on_a_linear_head_is_the_formula() -> None:
    """W <- W - eta (P - Y)^T [phi, s] / B and b <- b - eta mean(P - Y): softmax regression, momentum's first step."""
    generator = torch.Generator().manual_seed(1)
    phi, s = (torch.randn(9, d, generator=generator, dtype=torch.float64) for d in (6, 4))
    y = torch.randint(0, 5, (9,), generator=generator)
    layer = nn.Linear(10, 5).double()
    settings = TrainConfig(optimiser="sgd", momentum=0.9, head_lr=5e-4, weight_decay=0.0)
    optimiser = build_optimiser(
        weight_groups(list(layer.parameters()), settings.head_lr, settings.weight_decay), settings
    )
    both = torch.cat([phi, s], 1)
    error = torch.softmax(both @ layer.weight.detach().T + layer.bias.detach(), 1) - F.one_hot(y, 5)
    weight = layer.weight.detach() - 5e-4 * error.T @ both / 9
    bias = layer.bias.detach() - 5e-4 * error.mean(0)
    F.cross_entropy(layer(both), y).backward()
    optimiser.step()
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.bias.detach(), bias, rtol=0, atol=1e-12)


def test_rate_rises_then_falls_to_nothing() -> None:
    settings = TrainConfig(warmup=0.2, schedule="cosine")
    shares = [rate_factor(step, 50, settings) for step in range(50)]
    assert shares[:10] == sorted(shares[:10])
    assert max(shares) == shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert 0 < shares[-1] < 0.01
    assert {rate_factor(step, 50, TrainConfig(warmup=0, schedule="constant")) for step in range(50)} == {1.0}
    assert all(0 < rate_factor(step, 3, TrainConfig(warmup=1.0)) <= 1 for step in range(3))


@pytest.mark.parametrize(
    ("nlls", "patience", "epochs", "best"),
    [
        ([5, 4, 3, 2, 1], 2, 4, 3),
        ([5, 4, 3, 3.5, 3.2, 9, 9], 2, 4, 1),
        ([5, 7, 6, 6.5, 8, 9, 9], 2, 4, -1),  # the start is hard to beat: patience counts from epoch 1
        ([5, 7, 6, 4, 9, 9, 9], 2, 5, 2),
        ([5, 9, 9, 9, 9], 0, 4, -1),
    ],
)
def test_best_weights_come_back(runtime: Runtime, nlls: list[float], patience: int, epochs: int, best: int) -> None:
    model, answers, seen = make_net(), iter(nlls), []

    def validate() -> tuple[float, float]:
        seen.append(copy.deepcopy(model.state_dict()))
        return next(answers), 0.5

    settings = TrainConfig(epochs=len(nlls) - 1, patience=patience)
    history = run(model, settings, runtime, make_task(model, validate))
    assert (len(history.records), history.best_epoch) == (epochs, best)
    assert history.best_nll == min(nlls[: epochs + 1])
    assert history.start_nll == nlls[0]
    assert history.rows_seen == epochs * len(ROWS)
    assert [r.valid_nll for r in history.records] == nlls[1 : epochs + 1]
    for name, value in model.state_dict().items():
        assert torch.equal(value, seen[best + 1][name])


def test_the_start_need_not_compete(runtime: Runtime) -> None:
    model, answers, seen = make_net(), iter([1.0, 4.0, 3.0, 3.5]), []

    def validate() -> tuple[float, float]:
        seen.append(copy.deepcopy(model.state_dict()))
        return next(answers), 0.5

    settings = TrainConfig(epochs=3, patience=0)
    history = run(model, settings, runtime, make_task(model, validate), start_counts=False)
    assert (history.start_nll, history.best_nll, history.best_epoch) == (1.0, 3.0, 1)
    assert all(torch.equal(value, seen[2][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_its_rows(runtime: Runtime, bad: float) -> None:
    model = make_net()
    asked = batches(1)[2]

    def loss(rows: Any, raw: Any, epoch: int) -> Tensor:
        value = plain_loss(model, rows)
        return value * bad if epoch == 1 and rows is not None and set(rows) == set(asked) else value

    with pytest.raises(NonFiniteLossError) as caught:
        run(model, TrainConfig(epochs=2), runtime, make_task(model, loss=loss))
    assert "epoch 2" in str(caught.value)
    assert all(f"row-{row}" in str(caught.value) for row in asked)
    assert not any(f"row-{row}," in str(caught.value) for row in set(ROWS) - set(asked))


def test_a_gradient_that_is_no_number_stops_too(runtime: Runtime) -> None:
    model = make_net()

    def loss(rows: Any, raw: Any, epoch: int) -> Tensor:
        return (model.last.weight * 0).sum().sqrt()  # finite, but its derivative is 0 * infinity

    with pytest.raises(NonFiniteLossError, match="gradient became nan in epoch 1; the rows behind it are row-"):
        run(model, TrainConfig(epochs=1, clip=0), runtime, make_task(model, loss=loss))


def test_a_validation_loss_that_is_no_number_stops(runtime: Runtime) -> None:
    model = make_net()
    answers = iter([1.0, math.nan])
    with pytest.raises(NonFiniteLossError, match="NaN after epoch 1"):
        run(model, TrainConfig(epochs=3), runtime, make_task(model, lambda: (next(answers), 0.0)))


@pytest.mark.parametrize(("share", "trained"), [(0.0, "first second last"), (0.5, "second last"), (1.0, "last")])
def test_frozen_blocks_keep_their_bits(runtime: Runtime, share: float, trained: str) -> None:
    model, before = make_net(), make_net().state_dict()
    losses = iter([9.0, 8.0, 7.0])
    settings = TrainConfig(epochs=2, freeze=share, lr=0.1, head_lr=0.1, weight_decay=0.1, average=0.7)
    run(model, settings, runtime, make_task(model, lambda: (next(losses), 0.0)))
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(trained.split())


def test_only_matrices_are_decayed() -> None:
    model = make_net()
    groups = make_groups(model, TrainConfig(weight_decay=0.3, lr=1.0, head_lr=7.0, layer_decay=0.5))
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}  # type: ignore[attr-defined]
    expected = {
        "first.weight": (0.5, 0.3), "first.bias": (0.5, 0.0), "second.weight": (1.0, 0.3),
        "second.bias": (1.0, 0.0), "last.weight": (7.0, 0.3), "last.bias": (7.0, 0.0),
    }  # fmt: skip
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == expected


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("kill", [(0, 0), (0, 3), (1, 0), (2, 5), (3, 2)])
@pytest.mark.parametrize("more", [{}, {"accumulate": 4, "average": 0.9}, {"optimiser": "sgd"}])
def test_resuming_gives_the_same_bits(
    runtime: Runtime, tmp_path: Path, kill: tuple[int, int], more: dict[str, Any]
) -> None:
    settings = TrainConfig(epochs=4, lr=0.03, head_lr=0.03, patience=0, **more)
    whole = make_net()
    uninterrupted = run(whole, settings, runtime)
    model, count = make_net(), [0, -1]

    def loss(rows: Any, raw: Any, epoch: int) -> Tensor:
        count[:] = [epoch, count[1] + 1 if count[0] == epoch else 0]
        if tuple(count) == kill:
            raise _Killed
        return plain_loss(model, rows)

    checkpoints = Checkpoints(tmp_path, "key", keep=2)
    with pytest.raises(_Killed):
        run(model, settings, runtime, make_task(model, loss=loss), checkpoints=checkpoints)
    other = make_net(seed=99 if kill[0] else 0)  # what a new process starts from does not matter once there are weights
    history = run(other, settings, runtime, checkpoints=checkpoints, resume=True)
    for name, value in other.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])
    assert [r.train_loss for r in history.records] == [r.train_loss for r in uninterrupted.records]
    assert [r.valid_nll for r in history.records] == [r.valid_nll for r in uninterrupted.records]
    assert (history.best_epoch, history.best_nll, history.rows_seen, history.start_nll) == (
        uninterrupted.best_epoch, uninterrupted.best_nll, uninterrupted.rows_seen, uninterrupted.start_nll
    )  # fmt: skip


def test_a_finished_stage_is_not_trained_again(runtime: Runtime, tmp_path: Path) -> None:
    checkpoints, settings = Checkpoints(tmp_path, "key", keep=1), TrainConfig(epochs=9, patience=1)
    model, answers = make_net(), iter([9.0, 8.0, 7.0, 7.5])
    first = run(model, settings, runtime, make_task(model, lambda: (next(answers), 0.0)), checkpoints=checkpoints)

    def never(*_: Any) -> Any:
        raise AssertionError("a finished stage ran again")

    again = make_net(seed=3)
    history = run(again, settings, runtime, make_task(again, never, loss=never), checkpoints=checkpoints, resume=True)
    assert history == first
    assert torch.equal(again.last.weight, model.last.weight)


def test_checkpoints_are_few_whole_and_only_for_their_run(runtime: Runtime, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "stage", "key", keep=2)
    run(make_net(), TrainConfig(epochs=5, patience=0), runtime, checkpoints=checkpoints)
    assert sorted(p.name for p in (tmp_path / "stage").iterdir()) == ["best.pt", "epoch-0003.pt", "epoch-0004.pt"]
    with pytest.raises(UserError, match="another table, split or configuration"):
        Checkpoints(tmp_path / "stage", "other", keep=2).latest()
    assert Checkpoints(tmp_path / "new", "key", keep=2).latest() is None


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "key", keep=1)
    checkpoints.save(0, {"model": torch.ones(3)})
    with pytest.raises((RuntimeError, AttributeError, TypeError)):
        checkpoints.save(1, {"model": lambda: None})
    kept = checkpoints.latest()
    assert kept is not None
    assert torch.equal(kept["model"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-0000.pt"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "key", keep=1)
    theirs = {".notes.pt", "epoch-final.pt", "epoch-1.pt", ".epoch-0001.pt.20240131.pt", "best.pt.bak"}
    for name in theirs | {".epoch-0001.pt.fusetune-1234abcd.pt", ".best.pt.fusetune-1234abcd.pt"}:
        (tmp_path / name).write_bytes(b"half")
    checkpoints.save(0, {"model": torch.ones(3)})
    assert {p.name for p in tmp_path.iterdir()} == theirs | {"epoch-0000.pt"}


def test_discarding_checkpoints_leaves_everything_else(tmp_path: Path) -> None:
    for stage in ("scan-01234567", "note-01234567"):
        for epoch in range(2):
            Checkpoints(tmp_path / "stages" / stage, "key", keep=2).save(epoch, {})
        Checkpoints(tmp_path / "stages" / stage, "key", keep=2).save_best({})
    (tmp_path / "stages" / "scan-01234567" / "epoch-mine.pt").write_text("mine")
    (tmp_path / "stages" / "todo.txt").write_text("mine")
    discard(tmp_path / "stages")
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        "stages/scan-01234567/epoch-mine.pt", "stages/todo.txt"
    }  # fmt: skip
    discard(tmp_path / "no such folder")


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Flip a bit, cut the end off, or take a piece out."""
    place = int(generator.integers(0, len(content)))
    match int(generator.integers(0, 4)):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + content[place + int(generator.integers(1, 100)) :]
        case _:
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(generator.integers(0, 8))
            return bytes(flipped)


def test_every_damage_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    log, generator = Log(quiet=True), np.random.default_rng(0)
    checkpoints = Checkpoints(tmp_path, "key", 2, log)
    for epoch in (7, 8):
        checkpoints.save(epoch, {"model": torch.arange(500.0) + epoch})
    path = tmp_path / "epoch-0008.pt"
    good = path.read_bytes()
    for _ in range(400):
        path.write_bytes(damaged(good, generator))
        log.warnings.clear()
        saved = checkpoints.latest()
        assert saved is not None
        assert torch.equal(saved["model"], torch.arange(500.0) + 7)
        assert log.warnings == [f"the checkpoint {path} is damaged: it is not used, and what it held is trained again"]
    path.write_bytes((tmp_path / "epoch-0007.pt").read_bytes())  # another epoch's, whole
    log.warnings.clear()
    checkpoints.latest()
    assert len(log.warnings) == 1
    torch.save({"key": "key", "model": torch.ones(3)}, path)  # as earlier versions wrote them
    checkpoints.latest()
    assert "epoch-0008.pt has no checksum, as those of earlier versions" in log.warnings[-1]
    path.write_bytes(good)
    log.warnings.clear()
    saved = checkpoints.latest()
    assert saved is not None
    assert torch.equal(saved["model"], torch.arange(500.0) + 8)
    assert not log.warnings


@pytest.mark.parametrize(
    "what", [["epoch-0003.pt"], ["epoch-0002.pt", "epoch-0003.pt"], ["best.pt"], ["epoch-0002.pt"]]
)
@pytest.mark.parametrize("how", ["damaged", "gone", "of another time"])
def test_a_damaged_stage_is_trained_again_to_the_same_bits(
    runtime: Runtime, tmp_path: Path, what: list[str], how: str
) -> None:
    settings = TrainConfig(epochs=6, lr=0.03, head_lr=0.03, patience=0, average=0.9)
    whole, checkpoints = make_net(), Checkpoints(tmp_path / "stage", "key", 2, Log(quiet=True))
    uninterrupted = run(whole, settings, runtime)

    def killed_in(last: int) -> None:
        model = make_net()

        def loss(rows: Any, raw: Any, epoch: int) -> Tensor:
            if epoch == last:
                raise _Killed
            return plain_loss(model, rows)

        with pytest.raises(_Killed):
            run(model, settings, runtime, make_task(model, loss=loss), checkpoints=checkpoints, resume=True)

    killed_in(1)
    old = (tmp_path / "stage" / "best.pt").read_bytes()
    killed_in(4)
    for path in (tmp_path / "stage" / name for name in what):
        match how:
            case "damaged":
                path.write_bytes(damaged(path.read_bytes(), np.random.default_rng(0)))
            case "gone":
                path.unlink()
            case _:
                path.write_bytes(old)
    killed_in(4)  # what is written anew must outlive what was damaged
    model = make_net()
    history = run(model, settings, runtime, checkpoints=checkpoints, resume=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])
    assert [r.valid_nll for r in history.records] == [r.valid_nll for r in uninterrupted.records]
    assert history.best_epoch == uninterrupted.best_epoch
    if how == "damaged":  # an older epoch's file is not even opened
        named = [name for name in what if any(name in text for text in checkpoints.log.warnings)]
        assert named == (what if what != ["epoch-0002.pt"] else [])
