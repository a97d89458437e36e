"""Why one row of a table is decided as it is: its regions, words, cells and dimensions, each asked by ``explain``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer
from torch import Tensor

from fusetune.data.bags import BagSource
from fusetune.data.cells import CellInput
from fusetune.data.source import Bag, Source, to_device
from fusetune.data.table import Table
from fusetune.data.tokens import TextInput
from fusetune.evaluate.analysis import row_shares, without_inputs
from fusetune.evaluate.elements import RowOfElements
from fusetune.evaluate.explain import Effect, Explanation, cells, dimensions, occlusion, words
from fusetune.evaluate.modalities import Probe
from fusetune.inputs import Reader

# Of a row with several pictures or texts, so many are looked into.
_STRONGEST = 3


def explain_row(
    probe: Probe,
    readers: Mapping[str, Reader],
    sources: Mapping[str, Source],
    table: Table,
    *,
    name: str,
    classes: Sequence[Any],
) -> Explanation:
    """Explain the only row of a table.

    Args:
        probe: The model and what it says of the row.
        readers: Fitted pre-processing by modality.
        sources: The table's inputs by modality.
        table: The row.
        name: Its id.
        classes: Class names.
    """
    p, network = probe.p[0], probe.network
    top = int(probe.decide(probe.p)[0])
    explanation = Explanation(
        row=name,
        decision=str(classes[top]),
        probability=float(p[top]),
        prior=float(without_inputs(probe)[0, top]),
        shares={modality: float(share[0]) for modality, share in row_shares(probe).items()},
        probabilities={str(label): float(value) for label, value in zip(classes, p, strict=True)},
        absent=[modality for modality, source in sources.items() if not source.present[0]],
        size=probe.measure.size,
    )
    for modality, reader in readers.items():
        if modality in explanation.absent or modality not in network.owners:
            continue
        inputs: Any = reader.plain().plain(to_device(sources[modality].read(np.arange(1)), network.device))
        if isinstance(inputs, Bag):
            _explain_elements(explanation, probe, reader, sources[modality], inputs)
            continue
        if reader.modality.kind == "image":
            explanation.pictures[modality] = _pixels(inputs)
            explanation.maps[modality] = occlusion(probe, modality, inputs)
        else:
            explanation.effects[modality] = _effects(probe, reader, inputs, table)
    return explanation


def _explain_elements(explanation: Explanation, probe: Probe, reader: Reader, source: Source, bag: Bag) -> None:
    """Add the effect of each element of the row, and what the strongest ones are made of."""
    modality, fitted = reader.modality.name, reader.fitted
    assert isinstance(source, BagSource)
    row, told = RowOfElements(probe, modality, bag), source.told(0)
    lost = row.leaving_out()
    said = row.named([name for _, name in told], lost)
    # As the row has them, whatever order they were put in.
    explanation.effects[modality] = [said[at] for at in sorted(range(len(said)), key=lambda at: told[at][0])]
    strongest = np.argsort(-np.abs(lost), kind="stable")[:_STRONGEST]
    with torch.inference_mode():
        for place in sorted(strongest.tolist(), key=lambda at: told[at][0]):
            title, wrap = f"{modality}: {told[place][1]}", row.changing(place)
            one = bag.seen(bag.index[place : place + 1])
            if reader.modality.kind == "image":
                explanation.pictures[title] = _pixels(one)
                explanation.maps[title] = occlusion(probe, modality, one, wrap)
            elif isinstance(fitted, TextInput):
                text = source.text_of(place)
                explanation.effects[title] = words(probe, modality, one, word_tokens(fitted, text), wrap)


def _effects(probe: Probe, reader: Reader, inputs: Any, table: Table) -> list[Effect]:
    modality, fitted = reader.modality, reader.fitted
    match fitted:
        case TextInput():
            text = str(table.column(fitted.column).iloc[0])
            return words(probe, modality.name, inputs, word_tokens(fitted, text))
        case CellInput():
            return _cells(probe, modality.name, fitted, inputs, table)
        case _:
            columns = modality.columns
            width = inputs.shape[1]
            names = columns if len(columns) == width else [f"{columns[0]}[{at}]" for at in range(width)]
            return dimensions(probe, modality.name, inputs, names)


def word_tokens(fitted: TextInput, text: str) -> list[tuple[str, list[int]]]:
    """Return each word of a text with the positions of its tokens; words that were cut off are left out."""
    tokenizer = Tokenizer.from_str(fitted.tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(fitted.max_tokens)
    encoding = tokenizer.encode(text.strip())
    tokens: dict[int, list[int]] = {}
    for position, word in enumerate(encoding.word_ids):
        if word is not None:
            tokens.setdefault(word, []).append(position)
    named = []
    for positions in tokens.values():
        start, end = encoding.offsets[positions[0]][0], encoding.offsets[positions[-1]][1]
        named.append((text.strip()[start:end].strip(), positions))
    return named


def _cells(probe: Probe, modality: str, fitted: CellInput, inputs: Mapping[str, Tensor], table: Table) -> list[Effect]:
    numbers: dict[str, list[int]] = {}
    for at, scale in enumerate(fitted.numbers):
        numbers.setdefault(scale.column, []).append(at)
    codes = {vocabulary.column: at for at, vocabulary in enumerate(fitted.categories)}
    values = {}
    for column in fitted.kinds:
        value = table.column(column).iloc[0]
        values[column] = "missing" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
    return cells(probe, modality, inputs, numbers, codes, values)


def _pixels(image: Tensor) -> Any:
    return (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
