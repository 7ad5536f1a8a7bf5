"""How many synthetic items, of which class, in which rows; no images are moved."""

from torchaug_gen.mixing.choice import Cursor, LabelSource, check_policy
from torchaug_gen.mixing.class_fractions import ClassSchedule, ClassTally, epoch_items
from torchaug_gen.mixing.counts import (
    MIXINGS,
    Fractions,
    Schedule,
    Split,
    Tally,
    as_fraction,
    fraction_at,
    rebatch,
    rebatch_splits,
    synthetic_rows,
)

__all__ = [
    "MIXINGS",
    "ClassSchedule",
    "ClassTally",
    "Cursor",
    "Fractions",
    "LabelSource",
    "Schedule",
    "Split",
    "Tally",
    "as_fraction",
    "check_policy",
    "epoch_items",
    "fraction_at",
    "rebatch",
    "rebatch_splits",
    "synthetic_rows",
]
