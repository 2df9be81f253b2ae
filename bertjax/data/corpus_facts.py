"""What the manifest of a build says: facts of its corpus, of its shards, and how it was made."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import bertjax
from bertjax.data.build_settings import BuildSettings
from bertjax.data.manifest import Manifest, Shard
from bertjax.errors import UserError
from bertjax.text.tokenizer import Tokenizer


def piece_facts(counts: np.ndarray, unk_id: int) -> dict[str, Any]:
    """What [V] counts of the pieces of a text tell, and these; the entropy is in nats."""
    total = max(int(counts.sum()), 1)
    shares = counts[counts > 0] / total
    return {
        "unigram_entropy": float(-(shares * np.log(shares)).sum()),
        "unknown_share": float(counts[unk_id] / total),
        "pieces_used": int((counts > 0).sum()),
        "piece_counts": " ".join(map(str, counts.tolist())),
    }


def corpus_facts(
    entries: list[dict[str, Any]], counts: np.ndarray, read: dict[str, Any], unk_id: int
) -> dict[str, Any]:
    """Counts of the corpus, and the loss (nats) of predicting pieces by their frequency alone."""
    totals = {
        name: sum(entry[name] for entry in entries)
        for name in ("documents", "sentences", "tokens", "duplicate_documents", "duplicate_tokens")
    }
    histogram = read["lengths"]
    return {
        **{name: totals[name] for name in ("documents", "sentences", "tokens")},
        "bytes": read["bytes"],
        **piece_facts(counts, unk_id),
        "documents_by_tokens_below": {
            str(1 << power): number for power, number in enumerate(histogram) if number
        },
        "dropped": {
            "short_documents": read["short"],
            "duplicate_documents": totals["duplicate_documents"],
            "duplicate_lines": read["lines"],
        },
        "duplicate_share": totals["duplicate_tokens"]
        / max(totals["tokens"] + totals["duplicate_tokens"], 1),
    }


def make_manifest(
    entries: list[dict[str, Any]],
    facts: dict[str, Any],
    tokenizer: Tokenizer,
    settings: BuildSettings,
    source: dict[str, Any],
) -> Manifest:
    """The manifest of a build.

    Args:
      entries: of the shards, in order, as write_shard returns them.
      facts: from corpus_facts.
      source: names the input.

    Raises:
      UserError: the shards hold no example, for no document is long enough.
    """
    layout = settings.layout()
    shards = tuple(
        Shard(**{field.name: entry[field.name] for field in dataclasses.fields(Shard)})
        for entry in entries
    )
    positions = sum(shard.examples for shard in shards) * settings.max_seq_length
    if not positions:
        raise UserError(
            f"no document is long enough for --segments={settings.segments}; put longer texts "
            "together, or choose --segments=doc_sentences"
        )
    return Manifest(
        max_seq_length=settings.max_seq_length,
        max_predictions_per_seq=settings.max_predictions_per_seq,
        vocab_size=tokenizer.vocab_size,
        tokenizer={"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
        dynamic=layout.dynamic,
        packed=settings.packed,
        pairs=layout.pairs,
        has_label=layout.has_label,
        max_sequences=max(entry["max_sequences"] for entry in entries),
        settings=dataclasses.asdict(settings),
        corpus=facts,
        source=source,
        padding_share=1 - sum(entry["filled"] for entry in entries) / positions,
        shards=shards,
        bertjax_version=bertjax.__version__,
    )
