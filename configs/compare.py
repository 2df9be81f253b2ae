"""The systems that BERT is explained against, each with the same time to learn from the same text.

    python -m bertjax.compare --config=configs/compare.py --input books/*.txt.xz --data_dir=data \\
        --workdir=runs/compare --budget=2h

Half of the budget is for the steps of pretraining, shared equally by all systems; evaluation and
tasks take some hour and a half more on two cores, whatever it is. On CPUs each core has a system or
a task of its own. The models are tiny, so that minutes on a core teach them something; give larger
ones more time.
A system is a config beside this one, with settings, and a kind of records. Each learns by the
optimizer and at the rate that let it learn fastest here, and all have vectors of about one width.
"""

from typing import Any

from ml_collections import ConfigDict

_DYNAMIC = ("--masking=dynamic", "--max_seq_length=128", "--drop_duplicates=documents")
_TRAINING = (
    "model.max_positions=128", "model.initializer_range=0.06", "model.hidden_dropout=0.0",
    "model.attention_dropout=0.0", "train.batch_size=32", "train.optimizer=muon",
    # What leaves the unigram entropy soonest; Adam takes twice as long.
    "train.learning_rate=2e-3",
)  # fmt: skip
_FROZEN = ("--learning_rate=3e-3",)
_TUNING = (
    "--epochs=2",
    "--batch_size=32",
    "--learning_rate=3e-4",
    "--max_seq_length=128",
    "--dropout=0.1",
)


def _bert(name: str, *settings: str, records: str = "pairs", **more: Any) -> dict:
    """BERT with something changed."""
    kept = (*_TRAINING, *settings)
    return {"name": name, "config": "bert.py:tiny", "records": records, "settings": kept} | more


def _masks(mask: float, same: float, random: float, tag: str) -> dict:
    """Of the pieces that are to be guessed: shares of [MASK], of what was there, of others."""
    assert abs(mask + same + random - 1) < 1e-9
    name = f"bert-masks-{100 * mask:.0f}-{100 * same:.0f}-{100 * random:.0f}"
    return _bert(name, f"data.mask_shares={mask},{random}", paper={"tag": f"{tag} (CoNLL)"})


def _glue(name: str, folder: str, bert: str, gpt: str, elmo: str, *options: str) -> dict:
    """One of GLUE's tasks, and the scores of the papers' models on its test set."""
    return {
        "name": name,
        "needs": (f"glue/{folder}/train.tsv", f"glue/{folder}/dev.tsv"),
        "options": ("--data_dir={data}/glue", *options),
        "paper": {
            "bert": f"{bert} (test)", "left-to-right": f"{gpt} (GPT, test)",
            "elmo": f"{elmo} (test)",
        },
    }  # fmt: skip


def _words(name: str, task: str, file: str, word2vec: str) -> dict:
    """A list of words, which needs no training, and what skip-gram of more text has reached."""
    return {
        "name": name, "task": task, "paper": {"word2vec": word2vec}, "tuned": False,
        "needs": (f"wordsim/{file}",),
        "options": (f"--test={{data}}/wordsim/{file}",),
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
            # paper: what it says of them as ablations, on dev (tables 5, 6 and 8).
            "systems": (
                _bert("bert", paper={"sst2": "92.7", "tag": "95.4 (CoNLL)"}),
                {
                    "name": "left-to-right",
                    "config": "left_to_right.py:tiny",
                    "records": "sentences",
                    "settings": _TRAINING,
                    "paper": {"sst2": "92.1"},
                },
                {
                    "name": "elmo",
                    "config": "elmo.py:tiny",
                    "records": "words",
                    # Over all words a step takes five times as long, which is told, too, by fewer
                    # rows held out.
                    "settings": (
                        "model.sampler=unigram",
                        "model.num_sampled=512",
                        "data.eval_examples=512",
                        "train.batch_size=32",
                        "train.learning_rate=3e-3",
                    ),
                },
                {
                    "name": "word2vec",
                    "config": "word2vec.py:100",
                    "records": "words",
                    "settings": (),
                    # Its table moves at that rate alone; the others' are best at that of all.
                    "tuning": ("--learning_rate=3e-3",),
                },
            ),
            # Run on ablation_tasks alone, with the encoder tuned (paper, section 5 and appendix C).
            "ablations": (
                _bert("bert-no-next-sentence", records="sentences", paper={"sst2": "92.6"}),
                # As in table 8: [MASK], the same piece, a random one; BERT has 80, 10, 10.
                _masks(1.0, 0.0, 0.0, tag="94.9"),
                _masks(0.8, 0.0, 0.2, tag="95.2"),
                _masks(0.8, 0.2, 0.0, tag="95.2"),
                _masks(0.0, 0.2, 0.8, tag="94.8"),
                _masks(0.0, 0.0, 1.0, tag="94.9"),
                # With what was learnt since 2018.
                _bert("modern", records="sentences", config="modern.py:tiny"),
                # In the same time, so with fewer steps; the paper gives each size a million.
                _bert("bert-4-layers", config="bert.py:L4_H128", paper={"sst2": "91.3 (6)"}),
                _bert("bert-8-layers", config="bert.py:L8_H128", paper={"sst2": "92.9 (12)"}),
            ),
            # Options of bertjax.finetune; {data} is --data_dir. needs: patterns of files without
            # which a task is left out. paper: what the base model, GPT and ELMo reach there.
            "tasks": (
                _glue("sst2", "SST-2", "93.5", "91.3", "90.4", "--train_examples=4000"),
                _glue("cola", "CoLA", "52.1", "45.4", "36.0", "--train_examples=4000"),
                _glue("rte", "RTE", "66.4", "56.0", "56.8"),
                _glue("stsb", "STS-B", "85.8", "80.0", "73.3", "--train_examples=4000"),
                {
                    "name": "tag",
                    "needs": ("ner/wnut17train.conll", "ner/emerging.dev.conll"),
                    # On frozen encoders the paper has a BiLSTM; it would take most of the time.
                    "options": (
                        "--train={data}/ner/wnut17train.conll",
                        "--dev={data}/ner/emerging.dev.conll",
                        "--head=linear",
                    ),
                    "paper": {"bert": "96.4 (CoNLL, dev)", "elmo": "95.7 (CoNLL, dev)"},
                },
                {
                    "name": "squad",
                    "needs": ("squad/train-*[!0].json", "squad/dev-*[!0].json"),  # not 2.0
                    "options": ("--data_dir={data}/squad", "--train_examples=2000", "--epochs=1"),
                    "paper": {
                        "bert": "88.5 (dev)",
                        "left-to-right": "77.8 (dev)",
                        "elmo": "85.8 (test)",
                    },
                },
                _words("wordsim-353", "similarity", "EN-WS-353-ALL.txt", "62.8 (6bn words)"),
                _words("simlex-999", "similarity", "EN-SIMLEX-999.txt", "37 (1bn words)"),
                _words("analogy", "analogy", "questions-words.txt", "53.3 (783M words)"),
            ),
            # Options of all tasks that train, and of those that train on a frozen encoder: a head
            # alone, and the weights of a mix, learn little at the rate of a whole encoder. What a
            # task says itself counts.
            "tuning": _TUNING,
            "frozen": _FROZEN,
            "ablation_tasks": ("sst2", "tag"),
            # A word that means two things: two sentences of one meaning, and one of the other.
            "contexts": {
                "bank": (
                    "They walked along the bank of the river until they reached the sea.",
                    "The boat was tied to a tree upon the bank of the stream.",
                    "He took all his money to the bank and spoke to the clerk.",
                ),
                "spring": (
                    "The flowers came late that spring, after a long winter.",
                    "In the spring of the next year they went back to the town.",
                    "They drank the clear water of the spring under the rock.",
                ),
                "cell": (
                    "The prisoner was locked in a dark cell of the tower.",
                    "They put him alone into a cell with a small window and a heavy door.",
                    "Every living cell of the plant is made of the same matter.",
                ),
            },
        }
    )
