"""How records are made: every setting of a build, checked."""

from __future__ import annotations

import dataclasses

from bertjax.data.layout import Layout
from bertjax.data.masking import MAX_LENGTH, UNITS, MaskingSettings
from bertjax.data.segments import FORMATS, SegmentSettings
from bertjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """How records are made; stands in the manifest word for word.

    See SegmentSettings and masking.MaskingSettings for what is not said here.

    Attributes:
      masking: "static", as in 2018, or "dynamic", within the training step.
      min_tokens: shorter documents are dropped.
      drop_duplicates: of documents (parts of long ones) with equal text all but one are dropped.
      num_shards: 0 for as many as keep a shard near its usual size.
    """

    max_seq_length: int = 128
    max_predictions_per_seq: int = 20
    masked_lm_prob: float = 0.15
    mask_unit: str = "token"
    mask_share: float = 0.8
    random_share: float = 0.1
    masking: str = "static"
    segments: str = "nsp"
    packed: bool = False
    short_seq_prob: float = 0.1
    dupe_factor: int = 5
    min_tokens: int = 1
    drop_duplicates: bool = False
    seed: int = 0
    num_shards: int = 0

    def __post_init__(self) -> None:
        if not 8 <= self.max_seq_length <= MAX_LENGTH:
            raise UserError(
                f"max_seq_length {self.max_seq_length} must lie between 8 and {MAX_LENGTH}"
            )
        if not 1 <= self.max_predictions_per_seq < self.max_seq_length:
            raise UserError(
                f"max_predictions_per_seq {self.max_predictions_per_seq} must lie between 1 and "
                f"max_seq_length {self.max_seq_length}"
            )
        for name, value, known in (
            ("masking", self.masking, ("static", "dynamic")),
            ("mask_unit", self.mask_unit, UNITS),
            ("segments", self.segments, FORMATS),
        ):
            if value not in known:
                raise UserError(f"{name} {value!r}: known are {', '.join(known)}")
        if self.packed and self.masking == "static":
            raise UserError(
                "packed rows cannot be masked as in 2018, whose records hold one sequence each; "
                "add --masking=dynamic"
            )
        if not 0 <= self.short_seq_prob <= 1:
            raise UserError(f"short_seq_prob {self.short_seq_prob} must lie between 0 and 1")
        floors = {"dupe_factor": 1, "num_shards": 0, "min_tokens": 0, "seed": 0}
        for name, least in floors.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)} must be at least {least}")
        self.masks()

    def masks(self) -> MaskingSettings:
        return MaskingSettings(
            self.max_predictions_per_seq,
            self.masked_lm_prob,
            self.mask_unit,
            self.mask_share,
            self.random_share,
        )

    def walk(self) -> SegmentSettings:
        return SegmentSettings(
            self.segments, self.max_seq_length, self.short_seq_prob, self.dupe_factor, self.packed
        )

    def layout(self) -> Layout:
        kind = FORMATS[self.segments]
        return Layout(
            self.max_seq_length,
            self.masking == "dynamic",
            kind.specials == 3,
            kind.has_label,
            self.masks(),
        )
