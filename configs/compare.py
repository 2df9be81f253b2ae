"""The systems that BERT is explained against, each with the same time to learn from the same text.

    python -m bertjax.compare --config=configs/compare.py --input books/*.txt.xz --data_dir=data \\
        --workdir=runs/compare --budget=2h

Half of the budget is for pretraining, shared equally by all systems; their tasks take about the
other half of the default. On CPUs each core has a system or a task of its own. The models are tiny,
so that minutes on a core teach them something; give larger ones more time.
A system is a config beside this one, with settings, and a kind of records.
"""

from ml_collections import ConfigDict

_DYNAMIC = ("--masking=dynamic", "--max_seq_length=128", "--drop_duplicates=documents")
_TRAINING = (
    "model.max_positions=128", "model.initializer_range=0.06", "model.hidden_dropout=0.0",
    "model.attention_dropout=0.0", "train.batch_size=32", "train.optimizer=muon",
    # What leaves the unigram entropy soonest; Adam takes twice as long.
    "train.learning_rate=2e-3",
)  # fmt: skip
_TUNING = ("--batch_size=32", "--learning_rate=3e-4", "--max_seq_length=128", "--dropout=0.1")


def _bert(*settings: str, records: str = "pairs", size: str = "tiny") -> dict:
    """BERT with something changed."""
    return {
        "config": f"bert.py:{size}", "records": records,
        "settings": (*_TRAINING, *settings),
    }  # fmt: skip


def _masks(name: str) -> dict:
    """Shares of [MASK] and of random pieces among what is to be guessed (paper, table 8)."""
    return _bert(f"data.mask_shares={name}")


def _glue(folder: str, *options: str, **paper: str) -> dict:
    """One of GLUE's tasks."""
    return {
        "needs": f"glue/{folder}/train.tsv", "paper": paper,
        "options": ("--data_dir={data}/glue", "--epochs=3", *options),
    }  # fmt: skip


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            # How the text is prepared; options of bertjax.prepare.
            "records": {
                "pairs": ("--vocab_size=8192", "--segments=nsp", *_DYNAMIC),
                "sentences": ("--vocab_size=8192", "--segments=full_sentences", *_DYNAMIC),
                "words": (
                    "--vocab_kind=words",
                    "--vocab_size=30000",
                    "--segments=full_sentences",
                    *_DYNAMIC,
                ),
            },
            # Run on all tasks, in all ways of reading them; the best first, as the paper has it.
            "systems": {
                "bert": _bert(),
                "left-to-right": {
                    "config": "left_to_right.py:tiny",
                    "records": "sentences",
                    "settings": _TRAINING,
                },
                "elmo": {
                    "config": "elmo.py:tiny",
                    "records": "words",
                    "settings": ("train.batch_size=32", "train.learning_rate=3e-3"),
                },
                "word2vec": {
                    "config": "word2vec.py:100",
                    "records": "words",
                    "settings": (),
                },
            },
            # Run on ablation_tasks alone, with the encoder tuned (paper, section 5 and appendix C).
            "ablations": {
                "bert-no-next-sentence": _bert(records="sentences"),
                "bert-masks-100-0-0": _masks("1.0,0.0"),
                "bert-masks-80-0-20": _masks("0.8,0.0"),
                "bert-masks-80-20-0": _masks("0.8,0.2"),
                "bert-masks-0-20-80": _masks("0.0,0.2"),
                "bert-masks-0-100-0": _masks("0.0,1.0"),
                "bert-4-layers": _bert(size="L4_H128"),
                "bert-8-layers": _bert(size="L8_H128"),
            },
            # Options of bertjax.finetune; {data} is --data_dir. needs: the file without which a
            # task is left out. paper: what the papers' large models reach, on test if not said
            # otherwise.
            "tasks": {
                "sst2": _glue(
                    "SST-2",
                    "--train_examples=6000",
                    **{"bert": "93.5", "left-to-right": "92.1 (dev)", "elmo": "90.4"},
                ),
                "cola": _glue(
                    "CoLA", **{"bert": "52.1", "left-to-right": "45.4 (GPT)", "elmo": "36.0"}
                ),
                "rte": _glue(
                    "RTE", **{"bert": "66.4", "left-to-right": "56.0 (GPT)", "elmo": "56.8"}
                ),
                "stsb": _glue(
                    "STS-B", **{"bert": "85.8", "left-to-right": "80.0 (GPT)", "elmo": "73.3"}
                ),
                "tag": {
                    "needs": "ner/wnut17train.conll",
                    "options": (
                        "--train={data}/ner/wnut17train.conll",
                        "--dev={data}/ner/emerging.dev.conll",
                        "--epochs=3",
                    ),
                    "paper": {"bert": "96.4 (CoNLL, dev)", "elmo": "95.7 (CoNLL, dev)"},
                },
                "squad": {
                    "needs": "squad/dev-v1.1.json",
                    "options": ("--data_dir={data}/squad", "--train_examples=4000", "--epochs=1"),
                    "paper": {"bert": "88.5 (dev)", "left-to-right": "77.8 (dev)", "elmo": "85.8"},
                },
                "similarity": {
                    "needs": "wordsim/EN-WS-353-ALL.txt",
                    "options": ("--data_dir={data}/wordsim",),
                    "tuned": False,
                },
                "analogy": {
                    "needs": "wordsim/questions-words.txt",
                    "options": ("--data_dir={data}/wordsim",),
                    "tuned": False,
                    "paper": {"word2vec": "75.4 (gensim, Wikipedia)"},
                },
            },
            "tuning": _TUNING,
            "ablation_tasks": ("sst2",),
            # A word that means two things, and a sentence for each.
            "contexts": {
                "bank": (
                    "They walked along the bank of the river until they reached the sea.",
                    "He took all his money to the bank and spoke to the clerk.",
                ),
                "spring": (
                    "The flowers came late that spring, after a long winter.",
                    "They drank the clear water of the spring under the rock.",
                ),
                "cell": (
                    "The prisoner was locked in a dark cell of the tower.",
                    "Every living cell of the plant is made of the same matter.",
                ),
            },
        }
    )
