"""Pretraining in phases: each has its steps, records and batches, wherever a run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from bertjax import prepare
from bertjax.data.masking import MaskingSettings
from bertjax.data.records import Records
from bertjax.errors import UserError
from bertjax.text.tokenizer import WordPieceTokenizer
from bertjax.training import phases
from bertjax.training.phases import Phase
from bertjax.training.schedules import Schedule, Stretch

Command = Callable[..., int]


def config(**changes: Any) -> ConfigDict:
    """The settings that phases look at; "train__steps" is train.steps."""
    found = ConfigDict(
        {
            "data": {"shapes": (), "mask_unit": "", "masked_lm_prob": 0.0, "mask_shares": ()},
            "train": {
                "batch_size": 16,
                "steps": 20,
                "long_share": 0.1,
                "long_batch_size": 0,
                "batch_growth": (),
                "learning_rate": 1e-3,
                "warmup_steps": 4,
                "schedule": "linear",
                "decay_share": 0.1,
                "long_learning_rate": 0.0,
                "long_warmup_steps": 0,
            },
        }
    )
    for name, value in changes.items():
        group, _, setting = name.partition("__")
        found[group][setting] = value
    return found


@pytest.fixture(scope="module")
def make(
    tmp_path_factory: pytest.TempPathFactory,
    command: Command,
    tiny_corpus: Path,
    tiny_vocabulary: Path,
) -> Callable[..., Records]:
    """Prepares the tiny corpus; every folder once."""
    folder, made = tmp_path_factory.mktemp("phases"), dict[tuple[str, ...], Records]()

    def prepared(*flags: str) -> Records:
        if flags not in made:
            output = folder / str(len(made))
            files = [f"--input={tiny_corpus}", f"--vocab={tiny_vocabulary}", f"--output={output}"]
            assert command(prepare, *files, "--keep_lines", "--workers=1", *flags) == 0
            made[flags] = Records(output)
        return made[flags]

    return prepared


@pytest.fixture(scope="module")
def shorter(make: Callable[..., Records]) -> Records:
    return make("--masking=dynamic", "--segments=doc_sentences", "--max_seq_length=16")


@pytest.fixture(scope="module")
def longer(make: Callable[..., Records]) -> Records:
    return make("--masking=dynamic", "--segments=doc_sentences", "--max_seq_length=32")


# --- The plan -------------------------------------------------------------------------------


def test_one_folder_is_one_phase(shorter: Records) -> None:
    assert phases.plan(config(), shorter, None) == [Phase(shorter, 16, 0, 20, ())]


def test_the_last_tenth_of_the_steps_is_on_the_longer_records(
    shorter: Records, longer: Records
) -> None:
    """Devlin et al. 2018, appendix A.2: 90 % of the steps short, the rest long."""
    plan = phases.plan(config(train__steps=1_000_000), shorter, longer)
    # As many tokens in a batch: half of the rows at twice the length.
    assert plan == [
        Phase(shorter, 16, 0, 900_000, ()),
        Phase(longer, 8, 900_000, 100_000, ()),
    ]


def test_share_and_batch_size_of_the_second_phase_can_be_set(
    shorter: Records, longer: Records
) -> None:
    wanted = config(train__long_share=0.25, train__long_batch_size=3)
    assert phases.plan(wanted, shorter, longer)[1] == Phase(longer, 3, 15, 5, ())


def test_each_phase_has_the_shapes_that_are_its_own(shorter: Records, longer: Records) -> None:
    both = phases.plan(config(data__shapes=(8, 12, 16, 24)), shorter, longer)
    assert [phase.shapes for phase in both] == [(8, 12, 16), (24,)]
    (only,) = phases.plan(config(data__shapes=(8, 12, 16)), shorter, None)
    assert only.shapes == (8, 12, 16)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"data__shapes": (12, 24)}, "data.shapes=.*: give lengths from 8 to the records', 16"),
        ({"train__long_batch_size": 8}, "train.long_batch_size: data.long_records is not set"),
        ({"train__learning_rate": math.nan}, "train.learning_rate=nan: give 0 or more"),
        ({"train__warmup_steps": -1}, "train.warmup_steps=-1: give 0 or more"),
        ({"train__batch_growth": (("a", 512),)}, "give pairs of a step and its rows"),
        ({"train__long_warmup_steps": 1}, "long_warmup_steps: train.long_learning_rate is not"),
    ],
)
def test_settings_of_what_is_not_there_are_refused(
    setting: dict[str, Any], message: str, shorter: Records
) -> None:
    wanted = config(**setting)
    with pytest.raises(UserError, match=message):
        phases.schedule(wanted, phases.plan(wanted, shorter, None))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float, shorter: Records, longer: Records) -> None:
    with pytest.raises(UserError, match=f"train.long_share={share}: give a share between"):
        phases.plan(config(train__long_share=share), shorter, longer)


def test_records_that_are_not_longer_are_refused(shorter: Records, longer: Records) -> None:
    for records in (shorter, longer):
        with pytest.raises(UserError, match="data.long_records: of length .*, not longer than"):
            phases.plan(config(), longer, records)


def test_shapes_are_refused_for_rows_of_one_length(tiny_records: Path, shorter: Records) -> None:
    padded = Records(tiny_records)
    with pytest.raises(UserError, match="data.shapes groups records by length"):
        phases.plan(config(data__shapes=(24,)), padded, None)
    with pytest.raises(UserError, match="data.shapes groups records by length"):
        phases.plan(config(data__shapes=(24,)), shorter, padded)
    # Those of the second phase have no shapes here.
    assert phases.plan(config(data__shapes=(12,)), shorter, padded)[1].shapes == ()


GROWTH = ((4, 32), (10, 64))


def test_batches_grow_at_their_steps_and_the_records_go_on(shorter: Records) -> None:
    plan = phases.plan(config(train__batch_growth=GROWTH), shorter, None)
    assert plan == [
        Phase(shorter, 16, 0, 4, (), 0),
        Phase(shorter, 32, 4, 6, (), 4 * 16),
        Phase(shorter, 64, 10, 10, (), 4 * 16 + 6 * 32),
    ]


def test_the_longer_records_have_as_many_tokens_as_the_last_batches_before(
    shorter: Records, longer: Records
) -> None:
    """LAMB's switch from 64k rows of 128 to 32k of 512 is told by long_batch_size."""
    grown = phases.plan(config(train__batch_growth=GROWTH), shorter, longer)
    assert [(p.batch_size, p.num_steps) for p in grown] == [(16, 4), (32, 6), (64, 8), (32, 2)]
    told = phases.plan(
        config(train__batch_growth=GROWTH, train__long_batch_size=48), shorter, longer
    )
    assert told[-1].batch_size == 48


@pytest.mark.parametrize(
    ("growth", "message"),
    [
        ((4, 32), "give pairs of a step and its rows"),
        (((10, 32), (4, 64)), "its steps must grow, from 1 to 19"),
        (((0, 32),), "its steps must grow, from 1 to 19"),
        (((20, 32),), "its steps must grow, from 1 to 19"),
    ],
)
def test_growth_that_is_none_is_refused(
    growth: tuple[Any, ...], message: str, shorter: Records
) -> None:
    with pytest.raises(UserError, match=message):
        phases.plan(config(train__batch_growth=growth), shorter, None)


def test_growth_and_shapes_are_refused_together(shorter: Records) -> None:
    wanted = config(train__batch_growth=GROWTH, data__shapes=(12,))
    with pytest.raises(UserError, match="not together with data.shapes"):
        phases.plan(wanted, shorter, None)


# --- The rates ------------------------------------------------------------------------------


def test_one_schedule_runs_through_both_phases(shorter: Records, longer: Records) -> None:
    wanted = config(train__schedule="wsd", train__decay_share=0.2)
    plan = phases.plan(wanted, shorter, longer)
    assert phases.schedule(wanted, plan) == Schedule("wsd", (Stretch(1e-3, 4, 20, 0.2),))


def test_the_second_phase_may_warm_up_again(shorter: Records, longer: Records) -> None:
    wanted = config(train__long_learning_rate=5e-4, train__long_warmup_steps=1)
    plan = phases.plan(wanted, shorter, longer)
    assert phases.schedule(wanted, plan) == Schedule(
        "linear", (Stretch(1e-3, 4, 18, 0.1), Stretch(5e-4, 1, 2, 0.1, 18))
    )
    with pytest.raises(UserError, match="train.long_learning_rate: data.long_records is not set"):
        phases.schedule(wanted, phases.plan(wanted, shorter, None))


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_a_share_of_decay_that_is_none_is_refused(share: float, shorter: Records) -> None:
    wanted = config(train__decay_share=share)
    with pytest.raises(UserError, match="train.decay_share"):
        phases.schedule(wanted, phases.plan(wanted, shorter, None))


# --- The batches ----------------------------------------------------------------------------


def stream(plan: list[Phase], start: int) -> list[tuple[tuple[int, ...], list[int]]]:
    return [
        (batch["input_ids"].shape, batch["record"].tolist())
        for batch in phases.batches(plan, start, seed=0)
    ]


@pytest.mark.parametrize("shapes", [(), (12, 24)])
def test_going_on_in_either_phase_gives_the_same_batches(
    shapes: tuple[int, ...], shorter: Records, longer: Records
) -> None:
    wanted = config(data__shapes=shapes, train__long_share=0.3)
    plan = phases.plan(wanted, shorter, longer)
    whole = stream(plan, 0)
    assert len(whole) == 20
    lengths = [shape[1] for shape, _ in whole]
    assert set(lengths[:14]) == ({12, 16} if shapes else {16})
    assert set(lengths[14:]) == ({24, 32} if shapes else {32})
    for start in (3, 13, 14, 17, 20):
        assert stream(plan, start) == whole[start:]


def test_growing_batches_read_the_stream_that_even_ones_read(shorter: Records) -> None:
    """Every record once an epoch, whatever the sizes; going on anywhere changes nothing."""
    growing = phases.plan(config(train__batch_growth=((5, 32), (9, 24))), shorter, None)
    whole = stream(growing, 0)
    assert [len(records) for _, records in whole] == [16] * 5 + [32] * 4 + [24] * 11
    flat = [record for _, records in whole for record in records]
    even = phases.plan(config(train__batch_size=8, train__steps=59), shorter, None)
    assert flat == [record for _, records in stream(even, 0) for record in records]
    for start in (1, 5, 7, 9, 10, 20):
        assert stream(growing, start) == whole[start:]


# --- What fits together ---------------------------------------------------------------------


def test_a_folder_that_is_not_given_is_asked_for() -> None:
    with pytest.raises(UserError, match="data.records is not set; give the --output folder"):
        phases.open_records("", "data.records")


def test_a_folder_with_another_vocabulary_is_refused(
    shorter: Records, tiny_tokens: list[str], tmp_path: Path
) -> None:
    for path in shorter.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(phases.open_records(str(tmp_path), "data.records")) == len(shorter)
    WordPieceTokenizer([*tiny_tokens[:-1], "other"], lowercase=True).save(tmp_path)
    with pytest.raises(UserError, match="the vocabulary is not the one of"):
        phases.open_records(str(tmp_path), "data.records")


def test_records_longer_than_the_model_are_refused(longer: Records) -> None:
    phases.check_length(longer, 32)
    with pytest.raises(UserError, match="length 32, the model has 31 positions; set model.max_po"):
        phases.check_length(longer, 31)


def test_records_with_and_without_labels_do_not_go_together(
    make: Callable[..., Records], shorter: Records, longer: Records
) -> None:
    phases.check_same(shorter, longer)
    pairs = make("--masking=dynamic", "--max_seq_length=32")
    for pair in ((shorter, pairs), (pairs, shorter)):
        with pytest.raises(UserError, match="one of them has labels of sequences"):
            phases.check_same(*pair)


# --- Masks ----------------------------------------------------------------------------------


def test_masks_are_those_of_the_build_unless_the_config_says_otherwise(
    make: Callable[..., Records],
) -> None:
    flags = ["--masked_lm_prob=0.2", "--mask_unit=span", "--mask_share=0.6", "--random_share=0.3"]
    records = make("--masking=dynamic", "--max_seq_length=32", *flags)
    assert phases.masks(config(), records) == MaskingSettings(
        7, 0.2, "span", 0.6, 0.3
    )  # 32 * 0.2, rounded up
    changed = config(
        data__masked_lm_prob=0.4, data__mask_unit="token", data__mask_shares=(0.5, 0.25)
    )
    assert phases.masks(changed, records) == MaskingSettings(14, 0.4, "token", 0.5, 0.25)
    # Held-out text is not masked otherwise when training is.
    assert phases.masks(changed, records, as_prepared=True) == phases.masks(config(), records)


@pytest.mark.parametrize(
    "setting",
    [{"mask_unit": "span"}, {"masked_lm_prob": 0.3}, {"mask_shares": (0.5, 0.5)}],
)
def test_masks_of_masked_records_cannot_be_changed(
    setting: dict[str, Any], tiny_records: Path
) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=f"data.{name}: .* masked already; .* --masking=dynamic"):
        phases.masks(config(**{f"data__{name}": value}), Records(tiny_records))


def test_two_shares_make_up_the_masks(shorter: Records) -> None:
    with pytest.raises(UserError, match="data.mask_shares: give two shares"):
        phases.masks(config(data__mask_shares=(0.5,)), shorter)


def expanded(records: list[Records], wanted: ConfigDict, steps: int) -> Iterator[dict[str, Any]]:
    plan = phases.plan(wanted, records[0], records[1] if records[1:] else None)
    expand = jax.jit(phases.expander(wanted, records, seed=0))
    for batch in islice(phases.batches(plan, 0, seed=0), steps):
        yield jax.device_get(expand(batch))


def test_the_config_changes_the_masks_of_compact_records(shorter: Records) -> None:
    (usual,) = expanded([shorter], config(), 1)
    (more,) = expanded([shorter], config(data__masked_lm_prob=0.5), 1)
    (kept,) = expanded([shorter], config(data__mask_shares=(0.0, 0.0)), 1)
    assert more["masked_lm_weights"].sum() > 2 * usual["masked_lm_weights"].sum()
    # Nothing is hidden where neither share hides.
    rows, columns = np.nonzero(kept["masked_lm_weights"])
    places = kept["masked_lm_positions"][rows, columns]
    assert (kept["input_ids"][rows, places] == kept["masked_lm_ids"][rows, columns]).all()
    assert (usual["input_ids"] != kept["input_ids"]).any()


def test_each_phase_is_expanded_by_its_own_manifest(shorter: Records, longer: Records) -> None:
    """Predictions are a share of the length; batches in shorter shapes have fewer."""
    wanted = config(data__shapes=(12, 24), train__long_share=0.5)
    found = list(expanded([shorter, longer], wanted, 20))
    widths = {batch["input_ids"].shape[1]: batch["masked_lm_ids"].shape[1] for batch in found}
    assert widths == {12: 2, 16: 3, 24: 4, 32: 5}
    for batch in found:
        assert batch["example_weights"].shape == (len(batch["input_ids"]),)
        filler = batch["example_weights"] == 0
        assert not batch["masked_lm_weights"][filler].any()
