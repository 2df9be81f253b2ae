"""BERT that reads from left to right and names the next word; the argument is a size.

The paper's ablation "LTR & no NSP" (section 5.1), the baseline that stands for GPT: the same
encoder and head, but a token attends to what is before it only. A sequence is read at its last
token, for the first sees nothing but itself.

    python -m bertjax.prepare --input books/*.txt.xz --output records/sentences \\
        --masking=dynamic --segments=doc_sentences
    python -m bertjax.pretrain --config=configs/left_to_right.py:mini --workdir=runs/ltr \\
        data.records=records/sentences train.steps=20000 train.batch_size=32 \\
        train.learning_rate=3e-4 train.warmup_steps=1000
"""

from bert import get_config as bert
from ml_collections import ConfigDict


def get_config(size: str = "base") -> ConfigDict:
    config = bert(size)
    config.model.attention = "causal"
    # Its one objective is the next word.
    del config.train.next_sentence
    return config
