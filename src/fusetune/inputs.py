"""The fitted pre-processing of every modality: how a table's columns become what the encoders see.

One `Reader` per modality, fitted on training rows, saved with the model and applied to any later table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field, TypeAdapter
from tokenizers import Tokenizer

from fusetune.augment import Augment
from fusetune.augment.bags import BagAugment
from fusetune.augment.cell_noise import CellAugment, Season, VectorAugment
from fusetune.augment.image import ImageAugment
from fusetune.augment.own import Own, OwnAugment, chosen
from fusetune.augment.token_noise import TextAugment
from fusetune.config import ColumnPolicy, Config, ImagePolicy, TextPolicy
from fusetune.data.bags import BagSource
from fusetune.data.cells import CellInput
from fusetune.data.choices import Kind
from fusetune.data.images import ImageInput, Reading
from fusetune.data.schema import Modality, Schema
from fusetune.data.several import Elements
from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.data.tokens import TextInput
from fusetune.data.vectors import VectorInput
from fusetune.encoders import (
    Bagged,
    CellIdentity,
    ColumnsMLP,
    Encoder,
    FTTransformer,
    Identity,
    ImageEncoder,
    VectorMLP,
    load_image_encoder,
    load_text_encoder,
    special_ids,
    train_tokenizer,
    train_word_tokenizer,
)
from fusetune.encoders.packages import IMAGE_PACKAGES, TEXT_PACKAGES, package_weights
from fusetune.encoders.sentence import UNTRAINED, read_tokenizer, text_limits
from fusetune.errors import WeightsError, listed
from fusetune.files import parse_json, write_text
from fusetune.process import Draws
from fusetune.progress import Log

# Pixels; what a configuration may ask for as `image.size`, seen larger as `image.encode_size` is by default.
_LARGEST_SIDE = 2 * 4096
_WHAT = {"image": "picture", "text": "text"}
Fitted = ImageInput | TextInput | CellInput | VectorInput


@dataclass(frozen=True)
class Reader:
    """One modality's fitted pre-processing.

    Attributes:
        modality: Its name, kind and columns.
        fitted: Turns a table into a source of raw inputs.
        size: For images: side in pixels of what the encoder sees at prediction.
    """

    modality: Modality
    fitted: Fitted
    size: int | None = None

    def bind(self, table: Table, reading: Reading | None = None) -> Source:
        """Return the modality's source for a table; `reading` says how images are read."""
        if self.modality.several:
            apart = elements_of(self.modality, self.fitted, table)
            return BagSource.of(apart, self._bound(apart.table, reading))
        return self._bound(table, reading)

    def _bound(self, table: Table, reading: Reading | None) -> Source:
        return self.fitted.bind(table, reading) if isinstance(self.fitted, ImageInput) else self.fitted.bind(table)

    def plain(self) -> Augment:
        """Return the augmentation that does nothing, for prediction."""
        match self.modality.kind:
            case "image":
                return self._each(ImageAugment(ImagePolicy(), self.size or 0))
            case "text":
                return self._each(TextAugment(TextPolicy(drop=0), (), 0))
            case "columns":
                return CellAugment(ColumnPolicy(corrupt=0), {})
            case _:
                return VectorAugment(ColumnPolicy(corrupt=0), torch.empty(0))

    def _each(self, augment: Augment) -> Augment:
        """Return an augmentation as one of every element of a row, where rows have several."""
        return BagAugment(augment) if self.modality.several else augment

    def augment(self, config: Config, source: Source, train: Rows, own: Own | None = None) -> Augment:
        """Return the augmentation that the configuration asks for; `own` is a callable given from Python."""
        match self.fitted:
            case ImageInput():
                if (call := chosen(config.image.augment, own)) is not None:
                    return self._each(OwnAugment(call, config.image.size))
                return self._each(ImageAugment(config.image.policy, config.image.size))
            case TextInput() as text:
                return self._each(_text_augment(text, config.text.augment))
            case CellInput() as cells:
                return _cell_augment(cells, config.columns.augment, source.read(train))  # type: ignore[arg-type]
            case _:
                has = train[source.present[train]]
                return VectorAugment(config.vector.augment, source.read(has))  # type: ignore[arg-type]

    def test_augment(self, config: Config) -> Augment | None:
        """Return what is drawn at prediction: pictures and texts as in training; None where nothing is.

        Cells and vectors are left as they are: another row's value says nothing about this one, and a saved model holds
        no training rows to take it from.
        """
        match self.fitted:
            case ImageInput() if config.image.policy != ImagePolicy():
                return self._each(ImageAugment(config.image.policy, self.size or 0))
            case TextInput() as text if config.text.augment != TextPolicy(drop=0):
                return self._each(_text_augment(text, config.text.augment))
            case _:
                return None

    def encoding(self, augment: Augment, config: Config) -> Augment:
        """Return the augmentation for stored features and prediction: for images, at their own size."""
        if isinstance(augment, BagAugment):
            return BagAugment(self.encoding(augment.one, config))
        if isinstance(augment, ImageAugment | OwnAugment):
            return replace(augment, size=config.image.encode_side)
        return augment

    def save(self, folder: Path) -> None:
        """Write the pre-processing into a folder."""
        facts: dict[str, Any] = {"size": self.size}
        if isinstance(self.fitted, TextInput):
            text = self.fitted
            write_text(folder / "tokenizer.json", text.tokenizer.to_str(pretty=True))
            facts["fitted"] = {"column": text.column, "pad": text.pad, "max_tokens": text.max_tokens}
        else:
            facts["fitted"] = self.fitted.model_dump(mode="json")
        write_text(folder / "reader.json", json.dumps(facts, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, read: Callable[[str], bytes], folder: str, modality: Modality, allow_remote: bool = False) -> Reader:
        """Read what `save` wrote.

        Args:
            read: Returns the bytes of a file.
            folder: What the names of the files begin with.
            modality: What the schema says of the input.
            allow_remote: May images be opened that need a network?

        Raises:
            ValueError: If the files describe the pre-processing of another input.
        """
        facts = parse_json(read(f"{folder}/reader.json"))
        fitted: Fitted
        match modality.kind:
            case "image":
                fitted = ImageInput(**{**facts["fitted"], "allow_remote": allow_remote})
            case "text":
                tokenizer = read_tokenizer(read(f"{folder}/tokenizer.json"))
                fitted = TypeAdapter(_Texts).validate_python(facts["fitted"]).reading(tokenizer)
            case "columns":
                fitted = CellInput(**facts["fitted"])
                fitted.bind(_empty_row(fitted))  # whatever does not fit in it shows on a row without any cell
            case "vector":
                fitted = VectorInput(**facts["fitted"])
        if (size := facts["size"]) is not None and not (type(size) is int and 0 < size <= _LARGEST_SIDE):
            raise ValueError(f"{folder}: images of {size!r:.40} pixels a side")
        reader = cls(modality, fitted, size)
        if reader.columns != modality.columns or (
            isinstance(fitted, ImageInput | TextInput) and fitted.column != modality.name
        ):
            raise ValueError(f"{folder} reads {listed(reader.columns)}, and not {listed(modality.columns)}")
        return reader

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        match self.fitted:
            case CellInput() as cells:
                return tuple(cells.kinds)
            case VectorInput() as vector:
                return tuple(vector.columns)
            case _ if self.modality.several:
                return self.modality.columns
            case one:
                return (one.column,)

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder that cannot take what is read.

        Raises:
            ValueError: Saying what does not fit.
        """
        if encoder.takes_several != self.modality.several:
            one, other = ("any number of elements", "one") if self.modality.several else ("one element", "several")
            raise ValueError(f"'{self.modality.name}' has {one} in a row, and its encoder takes {other}")
        encoder = encoder.bottom
        has = encoder.arguments
        match self.fitted:
            case ImageInput() as image:
                fits = isinstance(encoder, ImageEncoder) and image.size <= 2 * _LARGEST_SIDE and self.size is not None
            case TextInput() as text:
                ids, tokens = text_limits(encoder)
                largest = max(text.pad, *text.tokenizer.get_vocab().values(), 0)
                fits = (ids is None or largest < ids) and (tokens is None or text.max_tokens <= tokens)
            case CellInput() as cells:
                described = [has.get("numbers"), has.get("categories")]
                fits = described == [len(cells.numbers), cells.cardinalities] and all(n.std > 0 for n in cells.numbers)
            case VectorInput() as vector:
                fits = has.get("inputs") == len(vector.mean) == len(vector.std) and min(vector.std, default=1) > 0
        if not fits:
            raise ValueError(f"the encoder {type(encoder).__name__} does not take what '{self.modality.name}' reads")


def _empty_row(cells: CellInput) -> Table:
    empty = {
        name: pd.Series([None], dtype="float64" if kind is Kind.NUMBER else "str") for name, kind in cells.kinds.items()
    }
    return Table(pd.DataFrame(empty), "an empty row", Path())


@dataclass(frozen=True)
class _Texts:
    """What is saved of a text's pre-processing beside its tokenizer."""

    column: str
    pad: Annotated[int, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=1)]

    def reading(self, tokenizer: Tokenizer) -> TextInput:
        return TextInput(self.column, tokenizer, self.pad, self.max_tokens)


def _text_augment(text: TextInput, policy: TextPolicy) -> TextAugment:
    ids = special_ids(text.tokenizer)
    return TextAugment(policy, tuple(sorted(ids.all)), text.pad, ids.mask)


def _cell_augment(cells: CellInput, policy: ColumnPolicy, donors: dict[str, torch.Tensor]) -> CellAugment:
    """Say which numbers belong to one column, and which are truth values or parts of dates."""
    numbers, kinds = cells.numbers, [cells.kinds[scale.column] for scale in cells.numbers]
    names = list(dict.fromkeys(scale.column for scale in numbers))
    columns = tuple(names.index(scale.column) for scale in numbers)
    seasons = tuple(
        Season(i, tuple(part.mean for part in numbers[i : i + 3]), tuple(part.std for part in numbers[i : i + 3]))
        for i, kind in enumerate(kinds)
        if kind is Kind.DATE and numbers[i].column not in [part.column for part in numbers[:i]]
    )
    truths = tuple(i for i, kind in enumerate(kinds) if kind is Kind.BOOLEAN)
    return CellAugment(policy, donors, columns, truths, seasons)


def prepare_modality(
    modality: Modality, table: Table, schema: Schema, train: Rows, config: Config, log: Log
) -> tuple[Reader, Encoder]:
    """Fit a modality's pre-processing on training rows and load its encoder.

    Raises:
        WeightsError: If the encoder's weights are not on this machine and may not be downloaded.
    """
    # Encoders that start from random weights must start from the same ones in every run and after a resume.
    with Draws(config.seed, "encoder", modality.name):
        reader, encoder = _prepared(modality, table, schema, train, config, log)
        return reader, _pooled(modality, encoder, config)


def _pooled(modality: Modality, encoder: Encoder, config: Config) -> Encoder:
    """Return an encoder as one of rows, where these have several elements."""
    if not modality.several:
        return encoder
    return Bagged.of(encoder, (config.image if modality.kind == "image" else config.text).several.pool)


def elements_of(modality: Modality, fitted: Fitted, table: Table) -> Elements:
    """Return the elements of a table's rows, of a modality with several in a row."""
    beside = [fitted.spacing] if isinstance(fitted, ImageInput) and fitted.spacing is not None else []
    return Elements.of(table, modality.columns, modality.name, beside, _WHAT[modality.kind])


def picture_input(modality: Modality, table: Table, train: Rows, config: Config) -> ImageInput:
    """Return the pre-processing of a modality of pictures, fitted on training rows."""
    plain = image_input(config, modality.name)
    if not modality.several:
        return plain.fit_extent(table, train)
    apart = elements_of(modality, plain, table)
    return plain.fit_extent(apart.table, apart.of_rows(train))


def _prepared(
    modality: Modality, table: Table, schema: Schema, train: Rows, config: Config, log: Log
) -> tuple[Reader, Encoder]:
    match modality.kind:
        case "image":
            return _prepare_image(modality, table, train, config, log)
        case "text":
            return _prepare_text(modality, table, train, config, log)
        case "columns":
            cells = CellInput.fit(table, {name: schema.kind_of(name) for name in modality.columns}, train)
            build = ColumnsMLP if config.columns.encoder == "mlp" else FTTransformer
            return Reader(modality, cells), build(len(cells.numbers), cells.cardinalities, width=config.columns.width)
        case _:
            vector = VectorInput.fit(table, modality.columns, train)
            width = len(vector.mean)
            encoder = Identity(width) if config.vector.encoder == "identity" else VectorMLP(width, config.vector.width)
            return Reader(modality, vector), encoder


def _prepare_image(modality: Modality, table: Table, train: Rows, config: Config, log: Log) -> tuple[Reader, Encoder]:
    encoder = _image_encoder(config, log)
    return Reader(modality, picture_input(modality, table, train, config), config.image.encode_side), encoder


def _image_encoder(config: Config, log: Log) -> ImageEncoder:
    image = config.image
    name = _automatic(image.encoder, "efficientnet-lite0", IMAGE_PACKAGES, log)
    return load_image_encoder(name, allow_download=config.allow_download, mean=image.mean, std=image.std)


def image_input(config: Config, column: str) -> ImageInput:
    """Return the pre-processing of an image column that the configuration asks for, not yet fitted."""
    image = config.image
    return ImageInput(
        column=column,
        size=round(max(image.size, image.encode_side) * image.margin),
        fit=image.fit,
        background=image.background,
        spacing=image.spacing,
        pixel_limit=config.data.pixel_limit,
        allow_remote=config.allow_download,
        outside=config.data.outside,
    )


def _prepare_text(modality: Modality, table: Table, train: Rows, config: Config, log: Log) -> tuple[Reader, Encoder]:
    column = modality.name
    name, tokenizer = _text_encoder_name(config, log), None
    if name in UNTRAINED:
        if modality.several:
            apart = Elements.of(table, modality.columns, column, (), _WHAT["text"])
            cells = apart.table.column(column).iloc[apart.index[np.isin(apart.row, train)]]
        else:
            cells = table.column(column).iloc[train]
        texts = cells.dropna().astype("str").tolist()
        tokenizer = train_tokenizer(texts) if name == "builtin" else train_word_tokenizer(texts)
    encoder, tokenizer = _text_encoder(name, tokenizer, config)
    return Reader(modality, TextInput(column, tokenizer, special_ids(tokenizer).pad, config.text.max_tokens)), encoder


def _text_encoder_name(config: Config, log: Log) -> str:
    return _automatic(config.text.encoder, "all-MiniLM-L6-v2", TEXT_PACKAGES, log)


def _text_encoder(name: str, tokenizer: Tokenizer | None, config: Config) -> tuple[Encoder, Tokenizer]:
    text = config.text
    return load_text_encoder(
        name,
        max_tokens=text.max_tokens,
        allow_download=config.allow_download,
        pooling=text.pooling,
        tokenizer=tokenizer,
        train_vectors=text.train_vectors,
    )


def before_training(reader: Reader, config: Config) -> Encoder:
    """Return an encoder as it was before any training, for a modality whose pre-processing was fitted before.

    That of an image or a text is loaded as it was for the run: pretrained, or the same random start. Cells and vectors
    have none, so that their numbers themselves are the features.

    Raises:
        WeightsError: If the encoder's weights are not on this machine and may not be downloaded.
    """
    log = Log(quiet=True)
    with Draws(config.seed, "encoder", reader.modality.name):
        match reader.fitted:
            case ImageInput():
                return _pooled(reader.modality, _image_encoder(config, log), config)
            case TextInput() as text:
                name = _text_encoder_name(config, log)
                encoder = _text_encoder(name, text.tokenizer if name in UNTRAINED else None, config)[0]
                return _pooled(reader.modality, encoder, config)
            case CellInput() as cells:
                return CellIdentity(len(cells.numbers), cells.cardinalities)
            case vector:
                return Identity(len(vector.mean))


def _automatic(name: str, preferred: str, packages: Mapping[str, Any], log: Log) -> str:
    """Resolve `auto`: the preferred pretrained weights where they are installed, else the built-in network."""
    if name != "auto":
        return name
    try:
        package_weights(packages[preferred])
    except WeightsError as error:
        log.warn(
            f"no pretrained weights for '{preferred}' are installed, so the small built-in encoder is trained from "
            f"nothing; expect much lower accuracy. {error}"
        )
        return "builtin"
    return preferred


def truncation_note(source: Source, name: str) -> str | None:
    """Return a sentence about texts that were cut, or None."""
    cut = getattr(source, "truncated", 0)
    if not cut:
        return None
    texts = f"{cut:,} of {int(np.sum(source.present)):,} texts in '{name}'"
    return f"{texts} are longer than what is read of one, and were cut (text.max_tokens)"
