"""Every number that the notebooks printed: accuracies and losses by epoch, the checkpoint that was kept, its counts."""

from __future__ import annotations

from dataclasses import dataclass

from fusetune.evaluate.intervals import Interval, wilson

Curve = tuple[float, ...]


@dataclass(frozen=True)
class Printed:
    """The printed outputs of one notebook.

    Attributes:
        kept_test: Test accuracy that the notebook ends with.
        rows: Test rows.
        train: Accuracy on the training rows by epoch, measured during the epoch, with augmentation.
        valid: Accuracy on the validation rows by epoch; empty where there is no validation part.
        test: Accuracy on the test rows by epoch, as far as it was printed.
        kept_valid: Validation accuracy of the checkpoint that was kept.
        losses: Losses by epoch, by part.
        minutes: Running time.
    """

    kept_test: float
    rows: int
    train: Curve = ()
    valid: Curve = ()
    test: Curve = ()
    kept_valid: float | None = None
    losses: dict[str, Curve] | None = None
    minutes: float | None = None

    @property
    def correct(self) -> int:
        """Test rows decided correctly."""
        return round(self.kept_test * self.rows)

    @property
    def interval(self) -> Interval:
        """Test accuracy with its Wilson interval, as if rows were independent (frames of one video are not)."""
        return Interval(self.kept_test, *wilson(self.correct, self.rows))


PRINTED: dict[int, Printed] = {
    1: Printed(
        train=(0.8113, 0.8718, 0.9059, 0.9270, 0.9425),
        valid=(0.8752, 0.8991, 0.9249, 0.9471, 0.9606),
        test=(0.8742, 0.9063, 0.9245, 0.9474, 0.9643),
        kept_valid=0.960622,
        kept_test=0.96425,
        rows=3021,
        losses={
            "train": (0.4577, 0.2871, 0.2052, 0.1673, 0.1381),
            "valid": (0.2692, 0.2108, 0.1641, 0.1333, 0.0964),
            "test": (0.2674, 0.2067, 0.1611, 0.1279, 0.0909),
        },
        minutes=71.5,
    ),
    2: Printed(
        train=(0.9511, 0.9691, 0.9688),
        valid=(0.9626, 0.9662, 0.9626),
        test=(0.9669, 0.9692),
        kept_valid=0.966248,
        kept_test=0.96922,
        rows=3021,
        losses={"train": (0.1202, 0.0789, 0.0788), "valid": (0.0937, 0.0852, 0.0904), "test": (0.0866, 0.0786)},
        minutes=39.4,
    ),
    3: Printed(
        train=(0.7714, 0.8163, 0.8252),
        valid=(0.8243, 0.8415, 0.8478),
        test=(0.8213, 0.8434, 0.8567),
        kept_valid=0.847783,
        kept_test=0.85667,
        rows=3021,
        losses={
            "train": (0.5618, 0.4190, 0.4088),
            "valid": (0.3724, 0.3242, 0.3117),
            "test": (0.3784, 0.3253, 0.3100),
        },
        minutes=42.8,
    ),
    4: Printed(
        train=(0.7879, 0.8081, 0.8285),
        valid=(0.8332, 0.8170, 0.8514),
        test=(0.8355, 0.8580),  # not evaluated after the second epoch, which did not improve the validation accuracy
        kept_valid=0.851423,
        kept_test=0.85799,
        rows=3021,
        losses={"train": (0.4698, 0.4706, 0.3891), "valid": (0.3577, 0.4370, 0.3049), "test": (0.3572, 0.3033)},
        minutes=39.9,
    ),
    5: Printed(
        train=(0.2409, 0.4492, 0.5208, 0.5654, 0.5942),
        test=(0.4037, 0.5078, 0.5467, 0.5775, 0.5897),
        kept_test=0.5897,
        rows=22715,
        losses={
            "train": (3.6309, 2.4126, 2.0326, 1.8268, 1.6967),
            "test": (2.6774, 2.1316, 1.9270, 1.7733, 1.7077),
        },
        minutes=91.7,
    ),
    6: Printed(
        train=(0.4194, 0.7102, 0.7709, 0.8157, 0.8530),
        test=(0.6309, 0.7293, 0.7432, 0.7518, 0.7485),
        kept_test=0.751838,
        rows=22715,
        losses={
            "train": (2.5186, 1.1864, 0.9205, 0.7249, 0.5516),
            "test": (1.5254, 1.1224, 1.0823, 1.0891, 1.1385),
        },
        minutes=465.5,
    ),
    7: Printed(
        train=(0.5079, 0.8017, 0.8183, 0.8315, 0.8413, 0.8530, 0.8616, 0.8717, 0.8823, 0.8915),
        kept_test=0.8335534,
        rows=22716,
    ),
    8: Printed(
        train=(0.614, 0.845, 0.870),
        valid=(0.816, 0.829, 0.835),
        kept_valid=0.835,
        kept_test=0.846,
        rows=22716,
    ),
    9: Printed(
        train=(0.8839, 0.9398, 0.9474, 0.9507, 0.9533),
        valid=(0.9378, 0.9489, 0.9542, 0.9565, 0.9597),
        test=(0.8807, 0.8899, 0.8935, 0.8960, 0.8984),
        kept_valid=0.959688,
        kept_test=0.8984,
        rows=22716,
        losses={
            "train": (0.7012, 0.3236, 0.2707, 0.2424, 0.2250),
            "valid": (0.3518, 0.2737, 0.2347, 0.2169, 0.2003),
            "test": (0.5884, 0.5266, 0.4956, 0.4819, 0.4689),
        },
        minutes=96.0,
    ),
    10: Printed(
        train=(0.9299, 0.9702, 0.9769, 0.9811, 0.9834),
        valid=(0.9719, 0.9788, 0.9816, 0.9843, 0.9873),
        test=(0.9217, 0.9256, 0.9251, 0.9245, 0.9264),
        kept_valid=0.987347,
        kept_test=0.9264,
        rows=22716,
        losses={
            "train": (0.3136, 0.1194, 0.0931, 0.0778, 0.0676),
            "valid": (0.1295, 0.0895, 0.0775, 0.0658, 0.0547),
            "test": (0.3462, 0.3276, 0.3416, 0.3460, 0.3383),
        },
        minutes=446.7,
    ),
    11: Printed(
        train=(0.8612, 0.9050, 0.9145, 0.9182, 0.9234),
        valid=(0.9019, 0.9154, 0.9197, 0.9247, 0.9273),
        test=(0.8401, 0.8476, 0.8498, 0.8531, 0.8561),
        kept_valid=0.927321,
        kept_test=0.8561,
        rows=22716,
        losses={
            "train": (0.6786, 0.4376, 0.3941, 0.3694, 0.3499),
            "valid": (0.4584, 0.3888, 0.3615, 0.3361, 0.3261),
            "test": (0.8394, 0.8075, 0.8075, 0.7915, 0.7887),
        },
        minutes=103.4,
    ),
}
"""By the number that the notebook has in `recipes/`."""
