"""Several ranks train one model: the numbers of one rank, one log, resumption on another number, and clear errors."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ranks_worker
import torch.distributed as dist
import yaml
from ranks_worker import Numbers
from tiny import settings, tiny_table

import fusetune
from fusetune.cli.launched import LEFT, _refuse_failed, wanted
from fusetune.errors import ConfigError, RunError, UserError
from fusetune.ranks import Place, Ranks, _greet, find_place, met
from fusetune.runtime import find_runtime
from fusetune.strategies.trainer import _refuse_small_batches

TESTS = Path(__file__).parent
SEVERAL = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SEVERAL:
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Set what a launcher tells a process."""
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: object) -> dict[str, str]:
    path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in more.items()}}
    return {**{name: value for name, value in os.environ.items() if name not in SEVERAL}, **own}


# What several ranks compute, beside what one computes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Numbers, list[Numbers], Path]:
    """Return the numbers of one rank, those that each of two saw, and the folder with what they left."""
    folder = tmp_path_factory.mktemp("ranks")
    one = ranks_worker.measured(folder / "one", Ranks())
    one |= ranks_worker.resumed(folder / "one whole", Ranks(), folder / "whole")
    ranks_worker.interrupted(folder / "one interrupted", Ranks(), folder / "from one")
    port, command = free_port(), [sys.executable, str(TESTS / "ranks_worker.py"), str(folder), str(folder / "from one")]
    place: dict[str, object] = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if sys.platform == "linux":
        place["GLOO_SOCKET_IFNAME"] = "lo"
    processes = [
        subprocess.Popen(command, env=environment(RANK=rank, **place), stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    seen = [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
    return one, seen, folder


def test_two_ranks_compute_what_one_computes(trained: tuple[Numbers, list[Numbers], Path]) -> None:
    one, seen, _ = trained
    assert {"dropout", "mixed", "normed", "joint: strategy joint", "mmpareto: strategy mmpareto"} <= set(one)
    for stage, numbers in one.items():
        assert len(set(numbers)) > 2, stage  # something was trained
        for rank in range(2):
            assert seen[rank][stage] == pytest.approx(numbers, rel=0, abs=1e-9), stage


def test_divided_weights_are_trained_alike(trained: tuple[Numbers, list[Numbers], Path]) -> None:
    one, seen, _ = trained
    for stage in ("dropout", "joint: strategy joint"):
        assert seen[0][f"sharded {stage}"] == pytest.approx(one[stage], rel=0, abs=1e-9), stage
    assert seen[0]["refused"] == seen[1]["refused"] == [1.0]


def test_a_stage_goes_on_with_more_ranks(trained: tuple[Numbers, list[Numbers], Path]) -> None:
    one, seen, _ = trained
    assert len(one["resumed"]) == 9
    assert seen[0]["resumed"] == pytest.approx(one["resumed"], rel=0, abs=1e-9)


def test_a_stage_goes_on_with_fewer_ranks(trained: tuple[Numbers, list[Numbers], Path], tmp_path: Path) -> None:
    one, _, folder = trained
    (stage,) = (folder / "from two").iterdir()
    assert {path.name for path in stage.iterdir()} == {"best.pt", "epoch-0000.pt"}
    after = ranks_worker.resumed(tmp_path, Ranks(), folder / "from two")
    assert after["resumed"] == pytest.approx(one["resumed"], rel=0, abs=1e-9)


# A run, started by `--devices`


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Return the folder of a run with two ranks whose second one was killed in training, its exit code and output."""
    folder = tmp_path_factory.mktemp("killed")
    tiny_table(folder).to_csv(folder / "table.csv", index=False)
    brief: dict[str, Any] = {"evaluate__baselines": False, "doctor__check": False}
    config = settings(folder / "store", columns__train__epochs=120, **brief)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    log = folder / "run" / "log.jsonl"
    process = subprocess.Popen(
        [*command(folder), "--devices", "2"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ends = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < ends and not (log.exists() and '"epoch"' in log.read_text()):
        time.sleep(0.01)
    os.kill(second_rank(process.pid), signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    return folder, process.returncode, said


def command(folder: Path) -> list[str]:
    """Return a fit of two inputs of the tiny table, as a command."""
    return [
        sys.executable, "-m", "fusetune", "fit", str(folder / "table.csv"), "--label", "organ", "--inputs", "age,site",
        "--group", "patient", "--split", "part", "--config", str(folder / "config.yaml"), "--out", str(folder / "run"),
    ]  # fmt: skip


def second_rank(parent: int) -> int:
    """Return the process that is rank 1 of those that a process started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes())


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@linux
def test_a_rank_that_dies_ends_the_run_with_its_number(killed: tuple[Path, int, str]) -> None:
    folder, code, said = killed
    assert code == 1
    assert "rank 1 of 2 was ended by signal 9" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert not (folder / "run" / "metrics.json").exists()
    assert not list((folder / "run").rglob(".*fusetune-*"))


@linux
def test_there_is_one_log(killed: tuple[Path, int, str]) -> None:
    folder, _, said = killed
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [record["ranks"] for record in records if record["event"] == "start"] == [2]
    epochs = [record["epoch"] for record in records if record["event"] == "epoch"]
    assert epochs
    assert all(later == earlier + 1 for earlier, later in pairwise(epochs))
    assert said.count("input columns:") == 1


@linux
def test_what_two_ranks_began_one_ends(killed: tuple[Path, int, str]) -> None:
    folder = killed[0]
    done = subprocess.run(
        [*command(folder), "--resume"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stderr
    assert (folder / "run" / "metrics.json").exists()


@linux
def test_what_refuses_one_rank_is_said_once(tmp_path: Path) -> None:
    tiny_table(tmp_path).to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings(tmp_path / "store")), encoding="utf-8")
    words = command(tmp_path)
    words[words.index("organ")] = "orgen"
    done = subprocess.run(
        [*words, "--devices", "2"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout.count("orgen") == 1
    assert "did you mean 'organ'" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([-9, LEFT], "rank 0 of 2 was ended by signal 9"),
        ([LEFT, 1], r"rank 1 of 2 failed with exit code 1.*It said:\nno disk"),
        ([None, -11], "rank 1 of 2 was ended by signal 11"),
        ([LEFT, LEFT], "the processes lost each other"),
    ],
)
def test_the_rank_that_failed_first_is_named(codes: list[int | None], message: str) -> None:
    with pytest.raises(RunError, match=f"(?s){message}"):
        _refuse_failed(codes, [io.BytesIO(b"no disk\n")])


@pytest.mark.parametrize("codes", [[0, 0], [2, LEFT], [1, None]])
def test_what_the_first_rank_said_is_not_said_again(codes: list[int | None]) -> None:
    _refuse_failed(codes, [io.BytesIO()])


# What is divided, and how


@pytest.mark.parametrize("rows", [4, 5, 16, 17])
def test_shares_cover_all_rows_once(rows: int) -> None:
    shares = [list(range(rows))[Ranks(rank, 2).share(rows)] for rank in range(2)]
    assert shares[0] + shares[1] == list(range(rows))
    assert min(map(len, shares)) >= 2


def test_too_few_rows_are_run_by_every_rank() -> None:
    assert Ranks(0, 2).sizes(3) is None
    assert Ranks(1, 2).share(3) == slice(0, 3)


def test_batches_must_have_two_rows_for_each_rank() -> None:
    loop = fusetune.Config().image.train.model_copy(update={"batch_size": 7})
    _refuse_small_batches(loop, Ranks(0, 3))
    with pytest.raises(ConfigError, match=r"batches of 7 rows cannot be divided among 4 ranks.*--devices"):
        _refuse_small_batches(loop, Ranks(0, 4))


def test_more_ranks_than_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = Ranks(0, 50)
    monkeypatch.setattr(several, "lead", lambda make: make())
    monkeypatch.setattr("fusetune.api.met", lambda *_, **__: Meeting(several))
    frame = tiny_table(tmp_path / "data")
    with pytest.raises(UserError, match=r"50 ranks and 72 training rows.*start 36 or fewer"):
        fusetune.fit(frame, "organ", inputs=["age"], split="part", out=tmp_path / "run", config=settings(tmp_path))
    assert not (tmp_path / "run").exists()


class Meeting:
    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def __enter__(self) -> Ranks:
        return self.ranks

    def __exit__(self, *_: object) -> None:
        return None


# Places, addresses and versions


def test_alone_without_a_launcher() -> None:
    assert find_place() == find_place(1, 1) == Place()
    assert not wanted(None, None)
    assert wanted(2, None)
    assert not wanted(2, 3)  # which torchrun starts


def test_a_launcher_says_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, RANK=3, WORLD_SIZE=4, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2, MASTER_ADDR="first", MASTER_PORT=29500)
    assert find_place() == find_place(2, 2) == Place(3, 4, 1, 2, "first", 29500)
    assert not wanted(2, None)  # it has been started


@pytest.mark.parametrize(
    ("values", "expected", "message"),
    [
        ({}, (2, None), "torchrun --nproc-per-node 2"),
        ({}, (2, 3), "torchrun --nnodes 3 --nproc-per-node 2"),
        ({}, (0, None), "devices is 0"),
        ({"RANK": 0, "WORLD_SIZE": 2}, (None, None), "MASTER_ADDR is not set"),
        ({"RANK": 0, "WORLD_SIZE": "two"}, (None, None), "MASTER_ADDR is not set"),
        ({"RANK": 0, "WORLD_SIZE": "two", "MASTER_ADDR": "a", "MASTER_PORT": 1}, (None, None), "'two', and must be"),
        ({"RANK": 2, "WORLD_SIZE": 2, "MASTER_ADDR": "a", "MASTER_PORT": 1}, (None, None), "RANK=2 of WORLD_SIZE=2"),
        ({"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "a", "MASTER_PORT": 1}, (3, None), "asks for 3"),
        ({"RANK": 0, "WORLD_SIZE": 1}, (2, None), "WORLD_SIZE is 1, and 2 processes are expected"),
    ],
)
def test_contradictions_are_said(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], expected: tuple[int | None, int | None], message: str
) -> None:
    told(monkeypatch, **values)
    with pytest.raises(UserError, match=message):
        find_place(*expected)


def test_a_wrong_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_MEETING", "1")
    with pytest.raises(UserError, match=r"MASTER_ADDR=no\.\.where and MASTER_PORT=29500 lead to no machine"):
        meet(Place(1, 2, 1, 2, "no..where", 29500))
    with pytest.raises(UserError, match=r"rank 1 found nobody at 127\.0\.0\.1:\d+ within 1 s"):
        meet(Place(1, 2, 1, 2, "127.0.0.1", free_port()))


def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="the port is taken"):
            meet(Place(0, 2, 0, 2, "127.0.0.1", taken.getsockname()[1]))


def test_ranks_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_MEETING", "1")
    with pytest.raises(UserError, match=r"rank 1, rank 2 of 3 did not come within 1 s"):
        _greet(dist.HashStore(), Place(0, 3), {})  # type: ignore[attr-defined]


def test_other_versions_and_settings_are_said() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    facts = [{"torch": "2.13.0", "settings": "a"}, {"torch": "2.13.0", "settings": "b"}]
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(_greet, store, Place(rank, 2), facts[rank]) for rank in range(2)]
        for one in done:  # each of them says so
            with pytest.raises(UserError, match=r"settings is a on rank 0 .* and b on rank 1"):
                one.result()


def test_divided_weights_need_several_ranks() -> None:
    with pytest.raises(UserError, match="--devices"), met(Place(), sharded=True):
        pass


def test_ranks_share_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"2 ranks on a machine with 1 GPU.*--devices 1"):
        find_runtime(fusetune.Config(device="cuda"), Ranks(0, 2, 0, 2))


def meet(place: Place) -> None:
    with met(place):
        raise AssertionError("nobody is there to be met")
