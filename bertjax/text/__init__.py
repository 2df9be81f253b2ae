"""From text to pieces: corpora, vocabularies, tokenizers."""
