"""BERT-large in 8,599 steps of very large batches, with LAMB (You et al. 2020).

    python -m bertjax.prepare --input wiki/*.jsonl.zst books/*.txt.xz --output records/128 \\
        --masking=dynamic
    python -m bertjax.prepare --input wiki/*.jsonl.zst books/*.txt.xz --output records/512 \\
        --masking=dynamic --max_seq_length=512 --vocab records/128
    python -m bertjax.pretrain --config=configs/lamb.py --workdir=runs/lamb \\
        data.records=records/128 data.long_records=records/512

7,038 steps of 65,536 rows of 128, then 1,561 of 32,768 rows of 512, which warm up again: the second
records are other data to the optimizer. The paper did it on 1,024 TPU v3 chips in 76 minutes, and
got an F1 of 90.6 on SQuAD 1.1's dev set (its table 1). Fewer chips take a batch in more parts:
`python -m bertjax.plan --config=configs/lamb.py --topology v5e-256` tells what fits and how long it
takes. The argument is a size of bertjax.models.config.SIZES.

Batches, steps and re-warm-up are the paper's (section 4.1); it does not print its rates, which are
those of NVIDIA's DeepLearningExamples (PyTorch, BERT, pretrain_config.sh): 6e-3 after a warm-up of
28.43 % of the steps, 4e-3 after 12.8 %; behind it they are multiplied by the root of the share of
steps that is left.
"""

from bert import get_config as bert
from ml_collections import ConfigDict


def get_config(size: str = "large") -> ConfigDict:
    config = bert(size)
    config.model.dtype = "bfloat16"
    config.data.records = "records/128"
    config.data.long_records = "records/512"
    config.train.update(
        optimizer="lamb",
        schedule="sqrt",
        steps=8_599,
        batch_size=65_536,
        learning_rate=6e-3,
        warmup_steps=2_001,
        long_share=1_561 / 8_599,
        long_batch_size=32_768,
        long_learning_rate=4e-3,
        long_warmup_steps=200,
    )
    return config
