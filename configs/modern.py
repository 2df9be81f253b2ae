"""BERT with what was learnt since 2018, as a difference to bert.py; the argument is a size.

Norms before the parts (Xiong et al. 2020), rotary positions (Su et al. 2021), a gated feed-forward
(Shazeer 2020), local and global attention in turn (Warner et al. 2024), 30 % masks (Wettig et al.
2022) of whole words, no next sentence (Liu et al. 2019), and a rate that stays level until the last
tenth of the steps. Each part is one setting; leave some out with name=value.

    python -m bertjax.prepare --input books/*.txt.xz --output records/sentences \\
        --masking=dynamic --packed --segments=doc_sentences
    python -m bertjax.pretrain --config=configs/modern.py:mini --workdir=runs/modern \\
        data.records=records/sentences train.steps=20000 train.batch_size=32 \\
        train.learning_rate=3e-4 train.warmup_steps=1000
"""

from bert import get_config as bert
from ml_collections import ConfigDict


def get_config(size: str = "base") -> ConfigDict:
    config = bert(size)
    config.model.residual = "pre_norm"
    config.model.positions = "rope"
    config.model.feed_forward = "geglu"
    config.model.attention = "local_global"
    config.data.mask_unit = "whole_word"
    config.data.masked_lm_prob = 0.3
    config.train.next_sentence = False
    config.train.schedule = "wsd"
    return config
