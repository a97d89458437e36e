"""Why a finding matters, one sentence per kind, for people who decide what to do about it."""

from __future__ import annotations

_LOST = "A picture that cannot be read teaches nothing, and the row is judged without it."
_TWICE = "A copy teaches nothing new, and on the other side of a split it makes the score too good."
_ANSWER = "The model has seen a test row's copy with its answer, so the score of the test part is too good."
_LATER = "What is filled in once the answer is known makes a model look perfect, and useless where it is not known."
_LOOKS = "If they show the same thing, a split that parts them makes the score too good; if not, nothing is wrong."

WHY: dict[str, str] = {
    "image_missing": _LOST,
    "image_empty": _LOST,
    "image_unreadable": _LOST,
    "image_truncated": "What is missing would be learnt as grey, so the file is refused and the row judged without it.",
    "image_enormous": "So large a picture takes memory and minutes, and is refused unread.",
    "image_tiny": "Placeholders and icons look alike in every class; a model that learns them learns the file system.",
    "image_blank": "A picture of one colour says nothing, and a placeholder is no picture: an empty cell is honest.",
    "image_frames": "Only one frame or page is seen; what matters may be on another.",
    "text_missing": "Such rows are trained and judged without it; if one class lacks it more often, that tells.",
    "text_empty": "A text without a word says nothing, and an empty cell says so honestly.",
    "duplicate_rows": _TWICE,
    "duplicate_rows_across_parts": _ANSWER,
    "duplicate_images": _TWICE,
    "duplicate_images_across_parts": _ANSWER,
    "near_duplicate_images": _TWICE,
    "near_duplicate_images_across_parts": _ANSWER,
    "similar_images": _LOOKS,
    "similar_images_across_parts": _LOOKS,
    "duplicate_texts": "Equal texts are often templates; where they name one event, a split must not part them.",
    "duplicate_texts_across_parts": "Where equal texts name one event, the model has seen a test row's answer.",
    "conflicting_labels": "Of equal rows with different labels at least one is wrong; a model can be right about one.",
    "part_unknown": "A row in no part is neither learnt from nor judged.",
    "group_missing": "Without its group nobody can tell whether a row stands on both sides of the split.",
    "group_across_parts": "Who recognises the patient knows the answer, so the score of the test part is too good.",
    "neighbours_across_parts": "Such rows show the same thing: test rows are answered by copying a neighbour.",
    "neighbour_agreement": "What copying the most similar training row would score: a model should do better.",
    "column_gives_label": _LATER,
    "columns_give_label": _LATER,
    "text_gives_label": _LATER,
    "column_scores": "What a column scores alone is what pictures and texts have to beat.",
    "column_constant": "A column with one value tells no two rows apart.",
    "column_like_id": "A number that names rows lets a model learn them by heart, and says nothing of new ones.",
    "numbers_as_words": "Read as words, 12.5 and 12.6 are as different as cat and house; the order of sizes is lost.",
    "dates_unclear": "A date that may be read in two ways is read wrongly in part of the rows.",
    "words_read_as_empty": "A word such as NA may be a value; as an empty cell it is lost.",
    "column_by_heart": "A model that knows such values by heart looks perfect here and knows nothing of new ones.",
    "column_looks_otherwise": "Addresses and long codes differ in every row: only rows can be learnt, by heart.",
    "value_spellings": "Spellings that count apart are two values, each with fewer rows; others may be meant apart.",
    "label_missing": "A row without a label can neither teach nor be judged.",
    "class_single_row": "The only row of a class is in one part: the class is either not learnt or not judged.",
    "class_too_small": "A class of so few rows is judged on one or two, which says nothing.",
    "class_not_in_training": "A class that was never seen in training cannot be answered.",
    "label_errors": "Wrong labels teach the wrong answer, and in the test part count right answers as mistakes.",
}
