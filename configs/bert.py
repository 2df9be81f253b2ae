"""BERT pretraining as in Devlin et al. 2018; the argument is a size of bertjax.models.config.SIZES.

    python -m bertjax.prepare --input books/*.txt.xz --output records/books
    python -m bertjax.pretrain --config=configs/bert.py:tiny --workdir=runs/tiny \\
        data.records=records/books train.steps=2000 train.warmup_steps=200 train.batch_size=32

The defaults are the paper's: batches of 256 sequences, a million steps, 16 TPU chips for 4 days
with base. A small batch wants a small rate: at 1e-3 a mini stays at the unigram entropy for
thousands of steps. On 2 CPU cores a mini learns in half an hour from 200 MB of books (records made
with --max_seq_length 64 --max_predictions_per_seq 10 --dupe_factor 1), to a held-out masked-LM loss
of 5.38 where the unigram entropy is 6.47, and an accuracy of 22.2 %, with

    python -m bertjax.pretrain --config=configs/bert.py:mini --workdir=runs/mini \\
        data.records=records/books64 data.eval_records=records/valid64 \\
        train.steps=4900 train.batch_size=32 train.learning_rate=3e-4 train.warmup_steps=200 \\
        model.max_positions=64 model.initializer_range=0.06 \\
        model.hidden_dropout=0.0 model.attention_dropout=0.0 eval_every=1000000
"""

from ml_collections import ConfigDict


def get_config(size: str = "base") -> ConfigDict:
    return ConfigDict(
        {
            "encoder": "bert",
            # A model to go on from: a run, a Hugging Face folder, a 2018 checkpoint.
            "init": "",
            "model": {
                "size": size,
                "max_positions": 512,
                "hidden_dropout": 0.1,
                "attention_dropout": 0.1,
                "initializer_range": 0.02,
                # "causal" trains a model of the next word; "local_global", as ModernBERT attends.
                "attention": "full",
                "attention_window": 128,
                "residual": "post_norm",  # or pre_norm
                "positions": "learned",  # or rope
                "feed_forward": "gelu",  # or gelu_tanh, relu, geglu, swiglu
                "dtype": "float32",
                # einsum, dot_product, flash: by platform. cuDNN's, of dot_product, drops no
                # weights: it needs attention_dropout=0.
                "attention_kernel": "auto",
            },
            "data": {
                "records": "records",
                "eval_records": "",
                # The last train.long_share of the steps, as the paper's last tenth at length 512.
                "long_records": "",
                # Lengths to group rows by; for --masking=dynamic without --packed.
                "shapes": (),
                "skip_damaged": False,
                # Held-out examples that are evaluated, evenly spread; 0: all.
                "eval_examples": 0,
                # Of --masking=dynamic; empty: as prepared. Held-out text is masked as prepared.
                "mask_unit": "",
                "masked_lm_prob": 0.0,
                "mask_shares": (),
            },
            "train": {
                "batch_size": 256,
                "steps": 1_000_000,
                # If the records have labels of pairs and attention is not causal.
                "next_sentence": True,
                "learning_rate": 1e-4,
                "warmup_steps": 10_000,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                # Parts that a batch goes through in; 0: on TPUs as many as fill fast memory, on
                # CPUs as many as have 4,096 tokens, on GPUs 1.
                "microbatches": 0,
                "long_share": 0.1,
                "long_batch_size": 0,  # 0: about as many tokens as in the other batches
                # Not 0: they have a warm-up and an end of their own, and what is before them, too.
                "long_learning_rate": 0.0,
                "long_warmup_steps": 0,
                "optimizer": "adam2018",
                "schedule": "linear",
                "decay_share": 0.1,  # of wsd: the last part, in which the rate falls
                "moment_dtype": "float32",
                # ((step, rows), ...): from that step on batches have so many rows.
                "batch_growth": (),
                "seed": 0,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "log_every": 100,
            "save_every": 1000,
            "eval_every": 5000,
            "keep_last": 2,
            # Updates in a row that may be left out because loss or gradient is not finite.
            "max_skipped": 10,
            # Seconds after which a step that does not end prints where it is.
            "stuck_after": 1800.0,
        }
    )
