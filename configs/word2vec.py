"""word2vec as in Mikolov et al. 2013; the argument is the vectors' width: 100, 200 or 300.

    python -m bertjax.prepare --input books/*.txt.xz --output records/words --vocab_kind=words \\
        --masking=dynamic --packed --segments=doc_sentences --max_seq_length=512
    python -m bertjax.pretrain --config=configs/word2vec.py:100 --workdir=runs/word2vec \\
        data.records=records/words train.epochs=5

With model.buckets=200000 words are made of their n-grams, too (fastText, Bojanowski et al. 2017),
so that words never seen have vectors; train.learning_rate=0.05 is usual then.

A window ends at a special token of the records, so it never reaches into another document; with
--packed and doc_sentences a sequence is what fits into a row of a document's sentences.
"""

from ml_collections import ConfigDict


def get_config(size: str = "100") -> ConfigDict:
    return ConfigDict(
        {
            "encoder": "word2vec",
            # A run or a file of vectors to go on from; records are prepared with --vocab of it.
            "init": "",
            "model": {
                "size": size,
                "method": "skip_gram",  # or cbow
                "window": 5,
                "negatives": 5,
                "subsample": 1e-3,
                "noise_power": 0.75,
                # fastText: so many rows for n-grams, by which unseen words have vectors, too.
                "buckets": 0,
                "min_gram": 3,
                "max_gram": 6,
                "max_characters": 20,  # of a word, whose further ones have no n-grams
                "update_tokens": 128,
            },
            "data": {
                "records": "records",
                "eval_records": "",
                "eval_examples": 0,
                "long_records": "",
                "shapes": (),
                "skip_damaged": False,
                "mask_unit": "",
                "masked_lm_prob": 0.0,
                "mask_shares": (),
            },
            "train": {
                "batch_size": 128,
                "epochs": 5.0,
                "steps": 0,  # 0: those of the epochs
                "learning_rate": 0.025,
                "warmup_steps": 0,
                "long_share": 0.1,
                "long_batch_size": 0,
                "long_learning_rate": 0.0,
                "long_warmup_steps": 0,
                "schedule": "linear",
                "decay_share": 0.1,
                "batch_growth": (),
                "seed": 0,
            },
            # Columns of the tables over all devices; of a width that they do not divide, such as
            # 100 on eight, each device holds all and works on its share.
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
            "log_every": 100,
            "save_every": 1000,
            "eval_every": 5000,
            "keep_last": 2,
            "stuck_after": 1800.0,
        }
    )
