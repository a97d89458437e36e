"""The model card of a run as Markdown: what the model is, how it was judged, what its limits are, how it is used.

It says what `metrics.json` and the schema say, and no row of the table: no id, no group, no text, no picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import huggingface_hub

from fusetune.errors import listed
from fusetune.export.origin import Origin
from fusetune.model import Model
from fusetune.telling import telling_of
from fusetune.version import VERSION

_KINDS = {"image": "a picture", "text": "a text", "columns": "cells", "vector": "a vector"}
_SHOWN = (
    "accuracy", "balanced_accuracy", "label_accuracy", "subset_accuracy", "macro_f1", "micro_f1", "auroc", "auprc",
    "nll", "brier", "ece", "r2", "mae", "rmse", "median_absolute_error", "bias",
)  # fmt: skip
# As hubs show them in lists of models.
_TOLD = ("accuracy", "balanced_accuracy", "subset_accuracy", "macro_f1", "auroc", "r2", "mae")


def card_text(origin: Origin, model: Model, metrics: Mapping[str, Any], usage: str) -> str:
    """Return the card.

    Args:
        origin: What it is the card of.
        model: The model.
        metrics: What its run judged.
        usage: How it is used, in Markdown.
    """
    label, parts = model.schema.named("label"), metrics["rows"]
    groups, scores = metrics["groups"] or {}, _scores(metrics)
    lines = [
        f"# {_plain(origin.name)}",
        "",
        f"{model.target.called(_code(label), _words(model.classes))}, trained with fusetune on "
        f"{_counted(parts['train'], groups.get('train'))}.",
        "",
        "## Use",
        "",
        usage,
        "",
        "## Inputs",
        "",
        "Any of them may be absent in a row.",
        "",
        "| input | what it is | columns |",
        "|---|---|---|",
        *(
            f"| {_plain(name)} | {_KINDS[one.kind]} | {', '.join(map(_code, one.columns))} |"
            for name, one in model.schema.modalities().items()
        ),
        "",
        "## How it was judged",
        "",
        f"Once, on {_counted(parts['test'], groups.get('test'))} of a locked test part that no choice was made on. "
        "Intervals (95 %) say how sure a number is on data like these, not how the model fares elsewhere."
        + (f" Rows count as column {_code(metrics['weight'])} says." if metrics.get("weight") else ""),
        "",
        "| metric | value | interval |",
        "|---|---|---|",
        *(_score(name, scores[name]) for name in _SHOWN if name in scores),
        "",
        f"It decides by {_plain(model.rule.words)}.",
        "",
        "Compared on the same rows by paired tests of the most probable class, corrected for their number:",
        "",
        *(_comparison(one, telling_of(metrics).test("McNemar")) for one in metrics["comparisons"]),
        "",
        "## How it was made",
        "",
        *_made(metrics),
        "",
        "## Limits",
        "",
        "- It is for rows drawn like those of its table: the same sources, devices, period and way of labelling. "
        f"{model.target.always}",
        "- It is not for decisions about people without a person who can overrule it, nor for data from elsewhere "
        "before it was judged there (`fusetune evaluate`). It is no medical device.",
        "- Whether it treats groups of people alike was not judged.",
        *(f"- {_plain(text)}" for text in metrics["warnings"]),
        "",
    ]
    return "\n".join(lines)


def hub_card(origin: Origin, model: Model, metrics: Mapping[str, Any], usage: str) -> str:
    """Return the card with the header that model hubs read."""
    scores = _scores(metrics)
    results = [
        huggingface_hub.EvalResult(
            task_type=model.target.kind,
            dataset_type="tabular",
            dataset_name="locked test part of its table",
            metric_type=name,
            metric_value=scores[name]["value"],
        )
        for name in _TOLD
        if scores.get(name, {}).get("value") is not None
    ]
    kinds = sorted({one.kind for one in model.schema.modalities().values()})
    data = huggingface_hub.ModelCardData(
        library_name="fusetune",
        tags=[model.target.kind, "multimodal" if len(kinds) > 1 else kinds[0], *kinds],
        model_name=origin.name,
        eval_results=results or None,
    )
    text = f"---\n{data.to_yaml()}\n---\n\n{card_text(origin, model, metrics, usage)}"
    return str(huggingface_hub.ModelCard(text).content)


def usage_text(origin: Origin, model: Model, load: str) -> str:
    """Return how a folder with a model is used; `load` is the Python that loads it."""
    columns = [name for one in model.schema.modalities().values() for name in one.columns]
    return (
        f"```python\nimport pandas as pd\nimport fusetune\n\n{load}\n"
        'table = pd.read_csv("rows.csv")  # a DataFrame; paths of pictures start from the working folder\n'
        "print(model.predict_table(table))\n```\n\n"
        f"The table needs columns of these names: {', '.join(map(_code, columns))}. Cells may be empty. Written by "
        f"fusetune {VERSION}; loading runs no code from the folder and needs no network."
    )


def _made(metrics: Mapping[str, Any]) -> list[str]:
    strategy = metrics.get("strategy")  # runs of earlier versions do not have it
    lines = [] if strategy is None else [f"Strategy {_code(strategy['name'])} ({_plain(strategy['paper'])}):", ""]
    return [*lines, *(f"- {_plain(name)}: {_plain(note)}" for name, note in metrics.get("notes", {}).items())]


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of the test part, by the model's threshold where it follows one."""
    return {**metrics["test"], **(metrics.get("acted") or {})}  # runs of earlier versions do not have the latter


def _score(name: str, score: Mapping[str, Any]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return f"| {name.replace('_', ' ')} | {shown(score['value'])} | {shown(score['low'])} to {shown(score['high'])} |"


def _comparison(one: Mapping[str, Any], test: str) -> str:
    word = {"better": "better than", "worse": "worse than"}.get(one["verdict"], "no difference shown against")
    counts = f"{one['gained']} rows gained, {one['lost']} lost, {test} p = {one['p_holm']:.2g}"
    if one.get("p_group_holm") is not None:
        counts += f", groups swapped p = {one['p_group_holm']:.2g}"
    return f"- {word} {_plain(one['against'])} ({counts})"


def _counted(rows: int, groups: int | None) -> str:
    return f"{rows:,} rows" + ("" if groups is None else f" in {groups:,} groups")


def _words(classes: list[Any]) -> str:
    return listed(map(_code, classes), 12)


def _code(word: object) -> str:
    plain = re.sub(r"[`|\s]+", " ", str(word)).strip()
    return f"`{plain}`"


def _plain(text: str) -> str:
    """Return text with the signs escaped that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(str(text).split()))
