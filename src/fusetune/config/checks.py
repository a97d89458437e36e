"""What the doctor looks for, and what `fit` does about each kind of finding.

Actions: `error` stops the run, `drop` leaves the rows out, `mask` empties the cells (for columns: leaves them out),
`keep` changes nothing and reports it.
"""

from __future__ import annotations

from typing import Literal

Action = Literal["error", "drop", "mask", "keep"]
_ROWS: tuple[Action, ...] = ("error", "drop", "keep")
_CELLS: tuple[Action, ...] = ("error", "drop", "mask", "keep")
_COLUMNS: tuple[Action, ...] = ("error", "mask", "keep")
_NOTHING: tuple[Action, ...] = ("error", "keep")

# What can be done about each kind.
ACTIONS: dict[str, tuple[Action, ...]] = {
    "image_missing": _CELLS,
    "image_empty": _CELLS,
    "image_unreadable": _CELLS,
    "image_truncated": _CELLS,
    "image_enormous": _CELLS,
    "image_tiny": _CELLS,
    "image_blank": _CELLS,
    "image_frames": _CELLS,
    "text_missing": _ROWS,
    "text_empty": _CELLS,
    "duplicate_rows": _ROWS,
    "duplicate_rows_across_parts": _ROWS,
    "duplicate_images": _ROWS,
    "duplicate_images_across_parts": _ROWS,
    "near_duplicate_images": _ROWS,
    "near_duplicate_images_across_parts": _ROWS,
    "similar_images": _ROWS,
    "similar_images_across_parts": _ROWS,
    "duplicate_texts": _ROWS,
    "duplicate_texts_across_parts": _ROWS,
    "conflicting_labels": _ROWS,
    "part_unknown": _ROWS,
    "group_missing": _ROWS,
    "group_across_parts": _ROWS,
    "neighbours_across_parts": _NOTHING,
    "neighbour_agreement": _NOTHING,
    "column_gives_label": _COLUMNS,
    "columns_give_label": _NOTHING,
    "text_gives_label": _COLUMNS,
    "column_scores": _NOTHING,
    "column_constant": _COLUMNS,
    "column_like_id": _COLUMNS,
    "numbers_as_words": _COLUMNS,
    "dates_unclear": _CELLS,
    "words_read_as_empty": _NOTHING,
    "column_by_heart": _COLUMNS,
    "column_looks_otherwise": _COLUMNS,
    "value_spellings": _NOTHING,
    "label_missing": _ROWS,
    "class_single_row": _ROWS,
    "class_too_small": _ROWS,
    "class_not_in_training": _ROWS,
    # Dropping rows because a model disagrees with them would make every score too good.
    "label_errors": _NOTHING,
}
# Copies are left out: in a split that is still to be made they would land on both sides, and in a given one the copy
# on the training side has told the model the answer. Whatever else is found needs somebody who knows the data.
_KEEP: Action = "keep"
DEFAULTS: dict[str, Action] = {
    **dict.fromkeys(ACTIONS, _KEEP),
    "duplicate_rows": "drop",
    "duplicate_rows_across_parts": "drop",
}
