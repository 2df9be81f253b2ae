"""ELMo as in Peters et al. 2018; the argument is a size of bertjax.models.elmo.SIZES.

    python -m bertjax.prepare --input books/*.txt.xz --output records/words --vocab_kind=words \\
        --vocab_size=30000 --masking=dynamic --segments=doc_sentences --max_seq_length=64
    python -m bertjax.pretrain --config=configs/elmo.py:mini --workdir=runs/elmo \\
        data.records=records/words train.steps=5000 train.batch_size=32
"""

from bert import get_config as bert
from ml_collections import ConfigDict


def get_config(size: str = "original") -> ConfigDict:
    config = bert()
    config.encoder = "elmo"
    config.model = {
        "size": size,
        # By its letters; in pretraining a word outside the vocabulary has those of "[UNK]".
        # "table": a vector for every entry of the vocabulary, for pieces of words.
        "words": "characters",
        # "": the softmax is over all words. Else, in training, over so many that are drawn: a step
        # teaches less, but is the only one with vocabularies of hundreds of thousands. Pieces of
        # words are not sorted by frequency, as log_uniform takes them to be: "unigram" is for them.
        "sampler": "log_uniform" if size == "original" else "",
        "num_sampled": 8192,
        "hidden_dropout": 0.1,
        "initializer_range": 0.02,
        "dtype": "float32",
    }
    # Its one objective is the language models'.
    del config.train.next_sentence
    # With its bias corrected; LSTMs do not stand the larger steps of 2018's at first.
    config.train.optimizer = "adamw"
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 1000
    return config
