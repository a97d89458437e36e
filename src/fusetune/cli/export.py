"""`fusetune export`: a run's model for another place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.frame import Debug, app, guarded, out, starting
from fusetune.cli.given import check_model
from fusetune.data.choices import ExportKind


@app.command(
    short_help="Write a run's model as ONNX, for MLflow, a model hub, or as it is.",
    epilog="Example:  fusetune export runs/scans --to onnx --out scans-onnx",
)
@guarded
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    to: Annotated[
        ExportKind,
        typer.Option(
            help="onnx: one graph and a runner that needs no PyTorch; mlflow: what mlflow.pyfunc loads; hub: a folder "
            "for a Hugging Face repository, with a model card; dir: the model as it is, with its card and a README.",
        ),
    ],
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write. Default: RUN-onnx (or -mlflow, -hub, -dir)."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="With --to hub: also send the folder there. A repository that is new is private. Without this "
            "option nothing leaves this machine.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a run's model for another place: as a whole or not at all, and never over anything but an earlier export.

    An ONNX export is compared with the model on every pattern of missing inputs before it appears.
    """
    del debug
    check_model(folder)
    starting("export: read the model, and write it for another place")
    from fusetune.export import export_run

    done = export_run(folder, to, out_folder, push=push, say=lambda text: out.print(text, soft_wrap=True))
    if done.difference is not None:
        out.print(f"largest difference of a probability from the model: {done.difference:.1e}")
    out.print(f"export  {done.folder}", soft_wrap=True)
    if done.address is not None:
        out.print(f"sent to {done.address}", soft_wrap=True)
