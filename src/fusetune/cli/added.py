"""Commands of other packages: each names a module in the entry-point group `fusetune.commands`; importing it adds them.

    [project.entry-points."fusetune.commands"]
    papers = "fusetune_papers.cli"

Such a module decorates functions with `app.command` or `data_app.command` of `fusetune.cli.frame`, as this folder does.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from fusetune.progress import console

GROUP = "fusetune.commands"


def add_commands() -> None:
    """Import every module of the group; one that cannot be imported is named in a warning, and the others stay."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            point.load()
        except Exception as error:  # whatever a stranger's module raises
            console.print(
                f"warning: the commands of '{point.name}' ({point.value}) are missing: "
                f"{type(error).__name__}: {error}. Repair or remove that package.",
                style="yellow", soft_wrap=True,
            )  # fmt: skip
