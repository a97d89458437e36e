"""The sixteen flaws of the published procedure, each a switch; their evidence and repairs are in `flaws.yaml`.

The recipe `paper` turns every switch on, `sound` none; `--flaws L4,L5` turns single ones on on top of `sound`, which
shows what each is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from fusetune.config import read_yaml
from fusetune.errors import ConfigError, did_you_mean

FPUS23, FOOD101, PHANTOM = "fpus23", "upmc-food101", "phantom"
DATA = (FPUS23, FOOD101, PHANTOM)


@dataclass(frozen=True)
class Flaw:
    """One difference between the published procedure and a sound one.

    Attributes:
        title: What is done, in a few words.
        evidence: Why it matters, with the numbers that are known.
        repair: What `sound` does instead.
        elsewhere: Data set -> why the switch changes nothing there.
        pictures: Does it act only where there are pictures?
    """

    title: str
    evidence: str
    repair: str
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    pictures: bool = False


_FILE = files("fusetune_papers") / "reproduce" / "flaws.yaml"
FLAWS = {name: Flaw(**about) for name, about in read_yaml(_FILE.read_text(encoding="utf-8")).items()}
"""L1 to L16, in order."""


def flaws_of(data: str) -> frozenset[str]:
    """Return the flaws that are part of the published experiments on a data set, or of all of them on the phantom."""
    return frozenset(name for name, flaw in FLAWS.items() if data not in flaw.elsewhere)


def chosen(names: Iterable[str], data: str) -> frozenset[str]:
    """Return the flaws of a list such as `["L4", "l5"]`, checked.

    Raises:
        ConfigError: A name is unknown, or the switch changes nothing on this data set; the message says why.
    """
    asked = [name.strip().upper() for name in names if name.strip()]
    strange = [name for name in asked if name not in FLAWS]
    problems = [f"'{name}' is no flaw{did_you_mean(name, FLAWS)}; they are L1 to L16" for name in strange]
    problems += [
        f"{name} ({FLAWS[name].title}) changes nothing on {data}: {FLAWS[name].elsewhere[data]}"
        for name in asked
        if name in FLAWS and data in FLAWS[name].elsewhere
    ]
    if problems:
        raise ConfigError("--flaws: " + "; ".join(problems))
    return frozenset(asked)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of flaws in the order of their numbers."""
    return sorted(names, key=lambda name: int(name[1:]))
