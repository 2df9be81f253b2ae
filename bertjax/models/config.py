"""What every encoder's config has, and BERT's own: its parts, its kernels, its published sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from bertjax.errors import UserError


class EncoderConfig(Protocol):
    """What all encoders' configs have in common: frozen dataclasses that JSON can hold.

    Attributes:
      encoder: the key of encoders.ENCODERS; of the class.
      vocab_size: V.
      hidden_size: D, the width of what heads read.
      num_layers: L, layers above the embeddings.
      reads_letters: words have vectors by their letters, also those not in the vocabulary.
      max_positions: the longest row.
      hidden_dropout, initializer_range, dtype: of the heads, too; see BertConfig.
    """

    encoder: ClassVar[str]

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def hidden_dropout(self) -> float: ...
    @property
    def initializer_range(self) -> float: ...
    @property
    def dtype(self) -> str: ...
    @property
    def reads_letters(self) -> bool: ...

    def to_dict(self) -> dict[str, Any]: ...


# The interchangeable parts of a transformer; layers.py and reach.py have a table for each.
PARTS = {
    "attention": ("full", "causal", "local_global"),
    "residual": ("post_norm", "pre_norm"),
    "positions": ("learned", "rope"),
    "feed_forward": ("gelu", "gelu_tanh", "relu", "geglu", "swiglu"),
}
# Ways to compute attention, whose results agree; attention.py has their table.
KERNELS = ("auto", "einsum", "dot_product", "flash")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Everything that fixes the shape and arithmetic of an encoder (Devlin et al. 2018, section 3).

    Attributes:
      vocab_size: V, rows of the token table.
      hidden_size: D.
      num_layers: L.
      num_heads: H; each head is D / H wide.
      intermediate_size: inner width of the feed-forward part, 4 D in the paper.
      max_positions: longest input the position table covers.
      num_segments: rows of the segment table.
      hidden_dropout, attention_dropout: probabilities of dropping a value.
      norm_epsilon: added to the variance in layer normalisation.
      initializer_range: deviation of the truncated normal that kernels start from.
      attention: who attends to whom, a key of reach.REACHES; "causal" makes it a model of the next
        word. attention_window: tokens that local attention reaches over, half of them to each side.
      residual, positions, feed_forward: keys of the tables of these names in layers.py.
      dtype: of the matrix products, "float32" or "bfloat16"; parameters, softmax, layer
        normalisation and loss are float32 in both.
      attention_kernel: how attention is computed, a key of attention.ATTENTIONS, or "auto": what
        suits the platform.
    """

    encoder: ClassVar[str] = "bert"
    reads_letters: ClassVar[bool] = False

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    attention: str = "full"
    attention_window: int = 128
    residual: str = "post_norm"
    positions: str = "learned"
    feed_forward: str = "gelu"
    dtype: str = "float32"
    attention_kernel: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (*PARTS.items(), ("attention_kernel", KERNELS)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} '{getattr(self, name)}' is unknown; choose one of {', '.join(known)}"
                )
        if self.attention_window < 2:
            raise UserError(f"attention_window {self.attention_window} must be at least 2")
        if self.positions == "rope" and self.hidden_size // self.num_heads % 2:
            raise UserError("positions 'rope' turns pairs of numbers; heads need an even width")
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        for name in ("hidden_dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} {getattr(self, name)} must be at least 0 and below 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype '{self.dtype}' is unknown; use float32 or bfloat16")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _miniatures() -> dict[str, dict[str, int]]:
    """The 24 sizes of Turc et al. 2019: L in 2..12, D in 128..768, heads of width 64."""
    return {
        f"L{layers}_H{width}": {
            "num_layers": layers,
            "hidden_size": width,
            "num_heads": width // 64,
            "intermediate_size": 4 * width,
        }
        for layers in (2, 4, 6, 8, 10, 12)
        for width in (128, 256, 512, 768)
    }


SIZES: dict[str, dict[str, int]] = {
    **_miniatures(),
    "tiny": _miniatures()["L2_H128"],
    "mini": _miniatures()["L4_H256"],
    "small": _miniatures()["L4_H512"],
    "medium": _miniatures()["L8_H512"],
    "minilm": {
        "num_layers": 6,
        "hidden_size": 384,
        "num_heads": 12,
        "intermediate_size": 1536,
    },
    "base": _miniatures()["L12_H768"],
    "large": {
        "num_layers": 24,
        "hidden_size": 1024,
        "num_heads": 16,
        "intermediate_size": 4096,
    },
}


def size(name: str, sizes: Mapping[str, Mapping[str, Any]] = SIZES) -> dict[str, Any]:
    """The dimensions of a named size.

    Raises:
      UserError: the name is not in the table; the message lists the legal ones.
    """
    if name not in sizes:
        raise UserError(f"unknown size '{name}'; choose one of {', '.join(sizes)}")
    return dict(sizes[name])
