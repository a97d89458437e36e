"""A server under load: how long an answer takes, whether each is right, what is lost when it stops, what it holds.

    python benchmarks/serve.py                 fits a model on medpix2 (picture + text, `--preset quick`), then asks it
    python benchmarks/serve.py --run DIR --table FILE     a run and rows that there are

1. Latency: one client asks for one row after the other.
2. Load: 10,000 requests of 64 clients at once. Each answer is compared with `Model.predict_table` of its row alone: it
   is wrong if the class differs, or a probability by more than 1e-4.
3. Malformed: 10,000 requests that no server should answer, each of which must get a status of 4xx and a reason.
4. Stop: all clients ask, and SIGTERM comes. A request counts as lost if a connection was made for it, and no complete
   answer came; a connection that is refused was never accepted. The exit code must be 0.

Memory is that of the server's processes (resident, from /proc), after each step; so are the seconds of the
processor that a request took. Ends with exit code 1 where an answer
was wrong, lost or missing; times are only printed, as they are those of the machine.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from _requests import malformed
from PIL import Image

import fusetune

_DATA = Path(os.environ.get("FUSETUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
_CLOSE, _ROWS = 1e-4, 64
_JSON = {"Content-Type": "application/json"}


def main() -> int:
    """Run all steps, print what was found, and return 1 where an answer was wrong or lost."""
    args = _arguments()
    with TemporaryDirectory() as folder:
        run, table = (Path(args.run), Path(args.table)) if args.run else _fitted(Path(folder), args.quick)
        asked = _asked(run, table, args.inputs.split(",") if args.inputs else None)
        with _served(run, args.workers) as server:
            found = _steps(server, asked, args)
    print(json.dumps(found, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1), encoding="utf-8")
    bad = sum(found[step]["wrong"] + found[step]["failed"] for step in ("latency", "load", "stop"))
    return 1 if bad or found["malformed"]["not refused"] or found["stop"]["exit code"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run folder; with --table")
    parser.add_argument("--table", help="table of rows to ask for")
    parser.add_argument("--inputs", help="columns that are sent, separated by commas (default: all)")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--single", type=int, default=300, help="requests of the first step")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few of everything")
    parser.add_argument("--json", help="write the figures there")
    args = parser.parse_args()
    if args.quick:
        args.requests, args.clients, args.malformed, args.single = 300, 16, 300, 30
    return args


def _fitted(folder: Path, quick: bool) -> tuple[Path, Path]:
    """Fit a model on picture and history of medpix2, or, in the quick form, a small one on pictures made up here."""
    how: dict[str, Any] = {"out": folder / "run", "quiet": True}
    table = folder / "table.csv"
    if quick:
        draw = np.random.default_rng(0)
        rows = []
        for row in range(60):
            pixels = draw.integers(0, 90, (48, 64, 3)) + 60 * (np.arange(3) == row % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{row}.png")
            words = f"case {row} with word {'abc'[row % 3]} in the text"
            rows.append({"image": f"{row}.png", "history": words, "label": f"class {row % 3}"})
        pd.DataFrame(rows).to_csv(table, index=False)
        sets = ["image.encoder=builtin", "image.size=32", "text.encoder=builtin", "train.epochs=1", "views=1"]
        fusetune.fit(table, "label", sets=[*sets, "strategy.name=two-stage", "evaluate.resamples=100"], **how)
        return folder / "run", table
    frame = pd.read_csv(_DATA / "medpix2" / "manifest.csv")
    frame["image"] = [str(_DATA / "medpix2" / path) for path in frame["image"]]
    frame[["image", "history", "uid", "label"]].to_csv(table, index=False)
    fusetune.fit(table, "label", group="uid", preset="quick", **how)
    return folder / "run", table


@dataclass
class Asked:
    """Requests, and what the model says of the row of each."""

    bodies: list[bytes]
    told: pd.DataFrame
    classes: list[str]
    picture: bytes
    columns: list[str]


def _asked(run: Path, table: Path, inputs: list[str] | None) -> Asked:
    model = fusetune.load(run)
    frame = pd.read_csv(table, dtype=str).head(_ROWS)
    schema = model.schema
    columns = [column for column in schema.inputs if inputs is None or column.name in inputs]
    pictures = {column.name for column in columns if column.kind == "image"}
    rows, picture = [], b""
    for _, line in frame.iterrows():
        row: dict[str, Any] = {}
        for column in columns:
            value = line.get(column.name)
            if pd.isna(value):
                continue
            if column.name in pictures:
                picture = (table.parent / value).read_bytes()
                row[column.name] = base64.b64encode(picture).decode()
            else:
                row[column.name] = value
        rows.append(row)
    kept = frame[[column.name for column in columns if column.name in frame]]
    kept = kept.assign(**{name: [str(table.parent / path) for path in kept[name]] for name in pictures})
    told = pd.concat([model.predict_table(kept.iloc[[place]], "mask") for place in range(len(kept))], ignore_index=True)
    bodies = [json.dumps({"rows": [row]}).encode() for row in rows]
    words = [column.name for column in columns if column.name not in pictures] or [columns[0].name]
    return Asked(bodies, told, [str(label) for label in model.classes], picture, words)


@dataclass
class Server:
    """A server process."""

    process: subprocess.Popen[str]
    port: int

    def seconds(self) -> float:
        """Return the seconds of the processor that the process and its children took so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, rest = int(stat.parent.name), stat.read_text().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            if self.process.pid in (pid, int(rest[1])):
                ticks += int(rest[11]) + int(rest[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the resident MiB of the process and its children."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                facts = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            except OSError:
                continue
            if self.process.pid in (int(facts["Pid"]), int(facts["PPid"])) and "VmRSS" in facts:
                total += int(facts["VmRSS"].split()[0])
        return total // 1024


@contextmanager
def _served(run: Path, workers: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "fusetune", "serve", str(run), "--port", "0", "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        server = Server(process, int(line.split("  ")[0].rsplit(":", 1)[1]))
        _until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        process.stdout.close()


def _until_ready(server: Server) -> None:
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not become ready")


@dataclass
class Tally:
    """What came of requests."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def facts(self) -> dict[str, Any]:
        """Return the figures of a step."""
        times = np.array(self.seconds or [np.nan]) * 1000
        p50, p95 = (round(float(np.percentile(times, share)), 1) for share in (50, 95))
        facts = {"answered": len(self.seconds), "wrong": self.wrong, "failed": sum(self.failed.values())}
        return facts | {"reasons": dict(self.failed.most_common(3)), "p50 ms": p50, "p95 ms": p95}


def _client(server: Server, asked: Asked, places: Iterator[int], tally: Tally, stop: Callable[[], bool]) -> None:
    """Ask for one row after the other on one connection, as far as the server leaves it open."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    for place in places:
        started, connected = time.perf_counter(), connection.sock is not None
        try:
            if not connected:
                connection.connect()
                connected = True
            connection.request("POST", "/v1/predict", asked.bodies[place], _JSON)
            reply = connection.getresponse()
            content = reply.read()
        except OSError as error:
            if not connected:
                tally.refused += 1
            else:
                tally.failed[type(error).__name__] += 1
            return
        except http.client.HTTPException as error:
            tally.failed[type(error).__name__] += 1
            connection.close()
            continue
        if reply.status != 200:
            tally.failed[f"{reply.status} {content[:80]!r}"] += 1
        else:
            tally.seconds.append(time.perf_counter() - started)
            tally.wrong += not _right(json.loads(content)["rows"][0], asked, place)
        if stop():
            break
    connection.close()


def _right(row: dict[str, Any], asked: Asked, place: int) -> bool:
    line = asked.told.iloc[place]
    near = all(abs(row["probabilities"][name] - line[f"p({name})"]) <= _CLOSE for name in asked.classes)
    return near and str(row["prediction"]) == str(line["prediction"])


def _crowd(server: Server, asked: Asked, clients: int, requests: int | None, meanwhile: Callable[[], None]) -> Tally:
    """Let clients ask at once: so many requests in all, or until the server takes no more."""
    lock, left, tally = threading.Lock(), [requests if requests is not None else 10**9], Tally()

    def places() -> Iterator[int]:
        while True:
            with lock:
                if not left[0]:
                    return
                left[0] -= 1
                place = left[0] % len(asked.bodies)
            yield place

    threads = [
        threading.Thread(target=_client, args=(server, asked, places(), tally, lambda: False)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    meanwhile()
    for thread in threads:
        thread.join()
    return tally


def _malformed(server: Server, asked: Asked, count: int) -> dict[str, Any]:
    """Send requests that must be refused."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    statuses, bad = Counter[int](), list[str]()
    for request in malformed(count, asked.picture, asked.columns, seed=0):
        connection.request(request.method, request.path, request.content, request.headers)
        reply = connection.getresponse()
        content = reply.read()
        statuses[reply.status] += 1
        try:
            reasoned = len(json.loads(content)["error"]) > 5
        except (ValueError, KeyError, TypeError):
            reasoned = False
        if not (400 <= reply.status < 500 and reasoned):
            bad.append(f"{request.kind}: {reply.status} {content[:100]!r} to {request.content[:100]!r}")
    connection.close()
    found = {str(status): number for status, number in sorted(statuses.items())}
    return {"requests": count, "statuses": found, "not refused": len(bad), "such as": bad[:3]}


def _load(server: Server, asked: Asked, clients: int, requests: int) -> dict[str, Any]:
    began, spent = time.perf_counter(), server.seconds()
    facts = _crowd(server, asked, clients, requests, lambda: None).facts()
    each = (server.seconds() - spent) / max(1, requests) * 1000
    rate = requests / (time.perf_counter() - began)
    return facts | {"clients": clients, "per second": round(rate, 1), "CPU ms of a request": round(each, 1)}


def _steps(server: Server, asked: Asked, args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"memory MiB": {"at first": server.memory()}}
    memory = found["memory MiB"]
    found["latency"] = _load(server, asked, 1, args.single)
    memory["after latency"] = server.memory()
    found["load"] = _load(server, asked, args.clients, args.requests)
    memory["after load"] = server.memory()
    found["malformed"] = _malformed(server, asked, args.malformed)
    memory["after malformed"] = server.memory()

    def end() -> None:
        time.sleep(3)
        server.process.send_signal(signal.SIGTERM)

    tally = _crowd(server, asked, args.clients, None, end)
    found["stop"] = tally.facts() | {"not accepted": tally.refused, "exit code": server.process.wait(120)}
    return found


if __name__ == "__main__":
    sys.exit(main())
