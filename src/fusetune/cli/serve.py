"""`fusetune serve`: a saved model over HTTP, with a page."""

from __future__ import annotations

import ipaddress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.given import check_model
from fusetune.errors import UserError
from fusetune.progress import Steps, without_bars
from fusetune.progress import console as errors

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_MIB = 2**20


@app.command(
    short_help="Serve a model over HTTP, with a page.",
    epilog="Example:  fusetune serve runs/scans --port 8000   and open http://127.0.0.1:8000",
)
@guarded
def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder or its model folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any that is free.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes, each with a model of its own.")] = 1,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the model is called: /v2/models/NAME.")] = "model",
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="FUSETUNE_API_KEY",
            show_envvar=True,
            help="Key that requests must show. In the environment it does not show in the list of processes.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Host of which pictures may be fetched by address, such as images.example.org, *.example.org or "
            "host:8080 (repeatable). By default none is.",
        ),
    ] = None,
    max_body: Annotated[int, typer.Option(metavar="MIB", min=1, max=4096, help="Most MiB of a request.")] = 32,
    max_pixels: Annotated[
        float, typer.Option(metavar="MILLIONS", min=0.001, max=1000, help="Most millions of pixels of a picture.")
    ] = 50,
    max_rows: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Most rows of a request.")] = 256,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="After which a request is given up.")
    ] = 30,
    max_waiting: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Most requests at work or waiting.")
    ] = 256,
    gather: Annotated[
        float, typer.Option(metavar="MS", min=0, max=1000, help="Milliseconds that a request waits for company.")
    ] = 3,
    drain: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=600, help="Between SIGTERM and the end of new connections.")
    ] = 1,
    watch: Annotated[
        bool, typer.Option("--watch", help="Change to another model when one is put into the folder.")
    ] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Write a line per request.")] = False,
    debug: Debug = False,
) -> None:
    """Serve a model: a page at /, predictions at /v1/predict, their description at /docs."""
    del debug
    check_model(folder)
    if missing := [package for package in _NEEDED if find_spec(package) is None]:
        raise UserError(f"serving needs {', '.join(missing)}: pip install 'fusetune[serve]'")
    if api_key is not None and len(api_key) < 8:
        raise UserError("the key is too short to keep anybody out; take 8 characters or more")
    if not name or not all(letter.isascii() and (letter.isalnum() or letter in "-_.") for letter in name):
        raise UserError(f"--name '{name}' must be of letters, digits and -_. to stand in an address")
    hosts = tuple(_host(words) for words in allow_host or ())
    steps = Steps("starting up", f"reading the model {folder}, and serving it")
    steps.begin()
    from fusetune.serve.options import Options
    from fusetune.serve.server import listening, run

    options = Options(
        folder=str(folder), name=name, key=api_key, hosts=hosts, body=max_body * _MIB, pixels=int(max_pixels * 1e6),
        rows=max_rows, seconds=timeout, waiting=max_waiting, gather=gather, drain=drain, watch=watch,
    )  # fmt: skip
    with listening(host, port) as opened:
        steps.begin()
        at = opened.getsockname()
        shown = f"[{at[0]}]" if ":" in at[0] else at[0]
        if api_key is None and not _is_own(at[0]):
            errors.print("warning: whoever reaches this address may ask the model; set --api-key", style="yellow")
        out.print(f"http://{shown}:{at[1]}  (page; /docs describes the addresses; Ctrl-C stops)", soft_wrap=True)
        with without_bars():  # of single requests, which nobody here waits for
            run(options, opened, workers, access_log)


def _is_own(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _host(words: str) -> str:
    """Return an allowed host in small letters; raises `UserError` for anything else, such as a whole address."""
    name, colon, port = words.lower().removeprefix("*.").partition(":")
    good = name and all(part and part.replace("-", "a").replace("_", "a").isalnum() for part in name.split("."))
    if not good or (colon and not (port.isdigit() and 0 < int(port[:6]) < 65536)):
        raise UserError(f"--allow-host {words}: give a host alone, such as images.example.org or host:8080")
    return words.lower()
