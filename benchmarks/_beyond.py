"""What many rows take on many workers, computed from rates that were measured on one core; no measurement here.

Two jobs on rows of a picture and a text. `predict` encodes each row once and writes a line for it. `fit` encodes each
row once for every view and once as it is, as `fusetune encode` does on a cluster, and fits a head on one machine.
Encoding is divided among workers of one core each; reading, handing out and the head are not.

    encoding = rows * passes * (1 / pictures + 1 / texts) / efficiency      seconds of cores
    hours    = (encoding / workers + rows * serial) / 3600
    cost     = price * (encoding + rows * serial) / 3600
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROWS = (10**6, 10**7, 10**8)
WORKERS = (1, 4, 16, 64)
JOBS = ("predict", "fit")
_GB = 2**30


@dataclass(frozen=True)
class Rates:
    """What was measured, each by one core in seconds of its own time.

    Attributes:
        pictures: Pictures that are encoded in a second.
        texts: Texts that are encoded in a second.
        worker: Gigabytes of a process that encodes.
        widths: Numbers of the features of a row, all inputs together.
        serial: Seconds for a row that only one core can work on, by job.
        memory: Gigabytes of the command, by job: at no rows, and for each row.
        bytes: Of a row in the table.
    """

    pictures: float
    texts: float
    worker: float
    widths: int
    serial: Mapping[str, float]
    memory: Mapping[str, tuple[float, float]]
    bytes: float


@dataclass(frozen=True)
class Assumed:
    """What was not measured.

    Attributes:
        efficiency: Of a worker among others: its share of the rate that it has alone.
        price: Of a core for an hour.
        views: Augmented views of each row, in `fit`.
        line: Bytes of a predicted line.
    """

    efficiency: float = 0.9
    price: float = 0.05
    views: int = 4
    line: int = 100

    def lines(self, rates: Rates) -> list[str]:
        """Return each assumption in a sentence."""
        return [
            f"A worker is one core, and does {self.efficiency:.0%} of what it does alone, however many there are.",
            f"A core costs {self.price:g} an hour (`--price`); machines, disks and networks are in it.",
            f"Every row has one picture and one text of 32 tokens; `fit` encodes it {self.views + 1} times "
            f"(views={self.views}, and once as it is), and fine-tunes nothing.",
            f"Storage hands out pictures as fast as they are encoded; reading and decoding them is not in the rate of "
            f"{rates.pictures:.1f} a second.",
            f"A predicted line takes {self.line} bytes; chunks on the shared disk take as much as both again.",
            "What one core does alone is reading for `predict` (handing out and writing are not in it), and checks and "
            "one epoch of a head on cells for `fit`.",
            "What one core does alone grows in proportion to the rows, also beyond the largest that was measured.",
            "No worker fails, and none waits for another.",
        ]


@dataclass(frozen=True)
class Taken:
    """What a job takes: hours, gigabytes of the command's memory and of disk, and cost."""

    hours: float
    memory: float
    disk: float
    cost: float


def taken(job: str, rows: int, workers: int, rates: Rates, assumed: Assumed) -> Taken:
    """Return what a job takes by the formulas above."""
    passes = 1 if job == "predict" else assumed.views + 1
    encoding = rows * passes * (1 / rates.pictures + 1 / rates.texts) / assumed.efficiency
    serial = rows * rates.serial[job]
    start, slope = rates.memory[job]
    table = rows * rates.bytes
    # Features are made on disk beside those that are kept: those of one input, in two arrays at most.
    disk = 2 * (table + rows * assumed.line) if job == "predict" else table + 3 * rows * passes * rates.widths * 4
    hours = (encoding / workers + serial) / 3600
    return Taken(hours, start + slope * rows, disk / _GB, assumed.price * (encoding + serial) / 3600)


def markdown(rates: Rates, assumed: Assumed, rows: Sequence[int] = ROWS, workers: Sequence[int] = WORKERS) -> str:
    """Return a table for a page."""
    lines = [
        f"| job | rows | {' | '.join(f'hours, {count} worker(s)' for count in workers)} | memory of the command | disk "
        "| cost |",
        "|---|--:|" + "--:|" * (len(workers) + 3),
    ]
    for job in JOBS:
        for count in rows:
            found = [taken(job, count, several, rates, assumed) for several in workers]
            hours = " | ".join(f"{one.hours:,.1f}" for one in found)
            last = found[-1]
            lines.append(
                f"| {job} | {count:,} | {hours} | {last.memory:,.1f} GB | {last.disk:,.0f} GB | {last.cost:,.0f} |"
            )
    return "\n".join(lines)
