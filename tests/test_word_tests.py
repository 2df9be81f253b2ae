"""Similarity and analogy: read as the official files are, scored as by hand and by scipy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bertjax import export, finetune
from bertjax.finetuning import word_tests
from bertjax.models.config import BertConfig
from bertjax.models.masked_lm import PretrainingModel
from bertjax.tasks import word_lists
from bertjax.tasks.word_lists import Analogy, Pair
from bertjax.text.tokenizer import WordPieceTokenizer
from bertjax.weights import word_vectors
from bertjax.weights.pretrained import Pretrained, load
from bertjax.weights.word_layer import WordLayer
from bertjax.weights.word_vectors import WordVectors

Command = Callable[..., int]
# king - man + woman is nearest to queen, and walk's past to walked, but then to runs.
VECTORS = {
    "man": [1, 0, 0, 0],
    "woman": [0.8, 0.6, 0, 0],
    "king": [0.6, 0, 0.8, 0],
    "queen": [0.4, 0.6, 0.7, 0],
    "throne": [0, 0, 1, 0],
    "cat": [0, 0, 0, 1],
    "dog": [0.1, 0, 0, 0.9],
}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "small.txt"
    rows = np.array(list(VECTORS.values()), np.float32)
    word_vectors.write_text(path, WordVectors(list(VECTORS), rows))
    return path


@pytest.fixture(scope="module")
def layer(vectors: Path) -> WordLayer:
    return WordLayer(load(vectors))


def cosine(first: str, second: str) -> float:
    a, b = np.array(VECTORS[first]), np.array(VECTORS[second])
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# --- Scores ---------------------------------------------------------------------------------


def test_similarity_is_scipys_correlation_of_the_cosines(layer: WordLayer) -> None:
    rated = [("man", "woman", 8.0), ("cat", "dog", 9.0), ("king", "cat", 1.0), ("man", "king", 5.0)]
    unknown = [("man", "zebra", 3.0), ("yak", "zebra", 2.0)]
    pairs = [Pair(*row) for row in rated + unknown]
    found = word_tests.similarity(pairs, layer)
    wanted = stats.spearmanr([r for *_, r in rated], [cosine(a, b) for a, b, _ in rated]).statistic
    assert found["spearman"] == pytest.approx(wanted)
    assert (found["pairs"], found["left_out"]) == (4, 2)
    assert found["unknown_words"] == ["zebra", "yak"]
    with pytest.raises(word_tests.TooFewKnown, match="of 0 of the 2 pairs"):
        word_tests.similarity(pairs[4:], layer)


def test_an_analogy_is_the_nearest_word_but_for_those_of_the_question(layer: WordLayer) -> None:
    questions = [
        Analogy("royal", ("man", "king", "woman", "queen")),  # right
        Analogy("royal", ("Man", "King", "Woman", "Throne")),  # wrong
        Analogy("royal", ("man", "king", "woman", "empress")),  # unknown
        # b is nearest to b - a + c, and is left out: what is left is dog, and not queen.
        Analogy("beasts", ("man", "cat", "man", "dog")),
        Analogy("none", ("a", "b", "c", "d")),
    ]
    found = word_tests.analogies(questions, layer)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert (found["questions"], found["left_out"]) == (3, 2)
    royal = {"right": 1, "questions": 2, "left_out": 1, "accuracy": 0.5}
    none = {"right": 0, "questions": 0, "left_out": 1, "accuracy": None}
    assert found["sections"]["royal"] == royal and found["sections"]["none"] == none
    assert found["unknown_words"] == ["a", "b", "c", "d", "empress"]


def test_a_word_is_found_as_it_stands_in_the_file(tmp_path: Path) -> None:
    """Text is cut at signs and loses its accents; the words of a file of vectors have both."""
    words = ["café", "cafe", "wi-fi", "wi", "fi"]
    path = tmp_path / "signs.txt"
    word_vectors.write_text(path, WordVectors(words, np.eye(5, dtype=np.float32)))
    layer = WordLayer(load(path))
    found = layer.vectors([layer.encode(word) or [] for word in ("café", "Wi-Fi", "Cafe")])
    np.testing.assert_array_equal(found.argmax(axis=1), [0, 2, 1])


def test_answers_are_those_of_a_plain_search() -> None:
    """3CosAdd on random vectors, one question at a time."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6)).astype(np.float32)
    known = word_tests.KnownWords({f"w{i}": i for i in range(50)}, vectors)
    rows = np.array([rng.permutation(50)[:4] for _ in range(200)])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    best = []
    for a, b, c, _ in rows:
        scores = [unit[i] @ (unit[b] - unit[a] + unit[c]) for i in range(50)]
        best.append(max(set(range(50)) - {a, b, c}, key=lambda i: scores[i]))
    rows[::2, 3] = best[::2]
    assert word_tests._answers(rows, known) == [
        d == b for (*_, d), b in zip(rows, best, strict=True)
    ]


def test_a_words_vector_is_the_mean_of_its_pieces_embeddings(
    tiny_tokenizer: WordPieceTokenizer, tiny_config: BertConfig, random_params: Callable
) -> None:
    params = random_params(PretrainingModel(tiny_config))
    layer = WordLayer(Pretrained("a", tiny_config, params, tiny_tokenizer, "", [], 0))
    pieces = layer.encode("farmering")
    assert pieces is not None and len(pieces) == 2 and layer.encode("日") is None
    found = layer.vectors([pieces, layer.encode("river") or []])
    table = params["encoder"]["embeddings"]
    raw = table["token"]["embedding"][pieces] + table["position"]["embedding"][1:3]
    raw = raw + table["segment"]["embedding"][0]
    centred = raw - raw.mean(axis=1, keepdims=True)
    normed = centred / centred.std(axis=1, keepdims=True)
    normed = normed * table["norm"]["scale"] + table["norm"]["bias"]
    np.testing.assert_allclose(found[0], normed.mean(axis=0), atol=1e-5)
    names = set(layer.known().ids)
    assert "river" in names and not any(
        name.startswith(("##", "[")) and name != "[" for name in names
    )


# --- Files ----------------------------------------------------------------------------------


def test_the_files_of_both_tests_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    wanted = [Pair("tiger", "cat", 7.35), Pair("book", "paper", 7.46)]
    for content in (
        "tiger\tcat\t7.35\nbook\tpaper\t7.46\n",
        "tiger\tcat\t7.35\r\nbook\tpaper\t7.46\r\n",
        "Word 1,Word 2,Human (mean)\ntiger,cat,7.35\nbook,paper,7.46\n",
        "word1\tword2\tPOS\tSimLex999\tconc\ntiger\tcat\tN\t7.35\t1.5\nbook\tpaper\tN\t7.46\t2\n",
        "tiger cat 7.35\n\nbook paper 7.46",
    ):
        path.write_text(content)
        assert word_lists.read_pairs(path) == wanted, content
    path.write_text("score\trating\t8\n")  # which are words here, and name no column
    assert word_lists.read_pairs(path) == [Pair("score", "rating", 8)]
    path.write_text(": capitals\nAthens Greece Oslo Norway\n: gram1 past\ngo went run ran\n")
    assert word_lists.read_analogies(path) == [
        Analogy("capitals", ("Athens", "Greece", "Oslo", "Norway")),
        Analogy("gram1 past", ("go", "went", "run", "ran")),
    ]


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("similarity", "a\tb\t1\nc\td\n", r"a\.txt:2: write two words and their rating"),
        ("similarity", "a\tb\t1\nc\td\tx\n", r"a\.txt:2: the rating 'x' is not a finite number$"),
        ("similarity", "a\tb\t1\nc\td\tnan\n", r"a\.txt:2: the rating 'nan' is not a finite"),
        ("similarity", "a\tb\t1\nc\td\tinf\n", r"a\.txt:2: the rating 'inf' is not a finite"),
        ("similarity", "love\tsex\tx\na\tb\t1\n", r"a\.txt:1: the rating 'x' is .* a header names"),
        ("similarity", "one two score\n", r"a\.txt: no pairs"),
        ("analogy", ": s\na b c d\na b c\n", r"a\.txt:3: 3 words; write four"),
        ("analogy", ": s\na b c d e\n", r"a\.txt:2: 5 words; write four"),
        ("analogy", ":\na b c d\n", r"a\.txt:1: a section without a name"),
        ("analogy", ": s\n", r"a\.txt: no questions"),
    ],
)
def test_malformed_lines_are_named(
    task: str,
    content: str,
    message: str,
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the vectors, which may be gigabytes, are read: these could not be."""
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "vectors.txt").write_text("2 1\nman 1\n")
    flags = [f"--task={task}", f"--init={tmp_path / 'vectors.txt'}"]
    flags += [f"--test={tmp_path / 'a.txt'}"]
    assert command(finetune, *flags, f"--workdir={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


# --- Commands -------------------------------------------------------------------------------


def test_one_command_prints_and_saves_the_score(
    vectors: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "wordsim"
    folder.mkdir()
    (folder / "EN-WS-353-ALL.txt").write_text("man\twoman\t8\ncat\tdog\t9\nking\tcat\t1\na\tb\t2\n")
    (folder / "SimLex-999.txt").write_text("man\twoman\t8\ncat\tdog\t3\nking\tcat\t1\n")
    (folder / "questions-words.txt").write_text(": royal\nman king woman queen\nx y z man\n")
    for task in ("similarity", "analogy"):
        flags = [f"--task={task}", f"--init={vectors}", f"--data_dir={folder}"]
        assert command(finetune, *flags, f"--workdir={tmp_path / task}") == 0
    said = capsys.readouterr().out
    assert "WordSim-353: spearman 1.0000 over 3; 1 left out for 2 unknown words (a, b)" in said
    assert "Google analogies: accuracy 1.0000 over 1; 1 left out" in said
    result = json.loads((tmp_path / "similarity" / "metrics.json").read_text())
    simlex = result["tests"]["SimLex-999"]["spearman"]
    assert result["score"] == pytest.approx((1 + simlex) / 2)
    assert json.loads((tmp_path / "analogy" / "metrics.json").read_text())["score"] == 1.0


def test_a_list_without_known_words_leaves_the_others_their_score(
    vectors: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "wordsim"
    folder.mkdir()
    (folder / "EN-WS-353-ALL.txt").write_text("man\twoman\t8\ncat\tdog\t9\nking\tcat\t1\n")
    (folder / "SimLex-999.txt").write_text("yak\tzebra\t8\nking\tcat\t1\n")
    flags = ["--task=similarity", f"--init={vectors}", f"--workdir={tmp_path / 'out'}"]
    assert command(finetune, *flags, f"--data_dir={folder}") == 0
    said = capsys.readouterr().out
    assert "WordSim-353: spearman 1.0000 over 3" in said
    few = "knows too few of the words"
    assert f"SimLex-999: left out, {vectors} {few}: of 1 of the 2 pairs\n" in said
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["tests"].keys() == {"WordSim-353"} and result["score"] == pytest.approx(1)
    simlex = folder / "SimLex-999.txt"
    assert command(finetune, *flags, f"--test={simlex}") == 2
    assert capsys.readouterr().err == f"error: {vectors}: {few} of {simlex}\n"


def test_what_is_missing_is_told(
    vectors: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--task=similarity", f"--init={vectors}"]
    assert command(finetune, *flags) == 2
    assert "give its files, --data_dir=DIR or --test=FILE" in capsys.readouterr().err
    assert command(finetune, *flags, f"--data_dir={tmp_path}") == 2
    assert "no file of --task=similarity" in capsys.readouterr().err


def test_flags_of_training_are_refused_by_name(
    vectors: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("man\twoman\t8\ncat\tdog\t9\n")
    flags = ["--task=similarity", f"--init={vectors}", f"--test={tmp_path / 'a.txt'}"]
    flags += [f"--workdir={tmp_path / 'out'}"]
    idle = ["--seeds=1", "--sweep", "--encoder=frozen", "--layers=last", "--epochs=2"]
    for some in (idle, ["--learning_rate=0"], [f"--train={tmp_path / 'a.txt'}"]):
        assert command(finetune, *flags, *some) == 2
        named = ", ".join(flag.split("=")[0] for flag in some)
        wanted = f"error: {named}: nothing is trained for --task=similarity; leave them out\n"
        assert capsys.readouterr().err == wanted
    assert command(finetune, *flags, f"--data_dir={tmp_path}") == 2
    wanted = "error: --data_dir: --test alone is read; leave one of them out\n"
    assert capsys.readouterr().err == wanted
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_run_is_refused_before_vectors_are_read(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"kind": "finetune"}')
    (tmp_path / "a.txt").write_text("man\twoman\t8\ncat\tdog\t9\n")
    flags = ["--task=similarity", f"--init={tmp_path / 'none.txt'}", f"--workdir={tmp_path}"]
    assert command(finetune, *flags, f"--test={tmp_path / 'a.txt'}") == 2
    wanted = f"error: --workdir={tmp_path}: holds a run, whose scores these would replace; give"
    assert capsys.readouterr().err == f"{wanted} another\n"


def test_vectors_are_exported_and_come_back(
    tiny_run: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """README: --format=word2vec of any run; here of a BERT, whose words are its whole pieces."""
    for kind in ("word2vec", "word2vec-bin"):
        flags = [f"--format={kind}", f"--run={tiny_run}", f"--output={tmp_path / kind}"]
        assert command(export, *flags) == 0
        assert command(export, *flags) == 2
        assert "exists already" in capsys.readouterr().err
    text, binary = (word_vectors.read(tmp_path / kind) for kind in ("word2vec", "word2vec-bin"))
    layer = WordLayer(load(tiny_run))
    assert text.words == binary.words and "river" in text.words and "##ing" not in text.words
    np.testing.assert_array_equal(text.vectors, binary.vectors)
    river = layer.vectors([layer.encode("river") or []])[0]
    np.testing.assert_allclose(text.vectors[text.words.index("river")], river, atol=1e-6)
    again = WordLayer(load(tmp_path / "word2vec"))
    np.testing.assert_array_equal(
        again.vectors([again.encode("river") or []])[0], text.vectors[text.words.index("river")]
    )
