"""Config files and overrides: what is unknown or of another type is refused by name."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bertjax import settings
from bertjax.errors import UserError
from bertjax.models import encoders
from bertjax.training import phases

CONFIG = """
from ml_collections import ConfigDict

def get_config(size="small"):
    train = {"steps": 100, "learning_rate": 1e-3, "schedule": "linear", "resume": True}
    return ConfigDict({"model": {"size": size}, "train": train, "log_every": 10})
"""
CONFIGS = Path(__file__).parents[1] / "configs"
# compare.py holds names of the others.
SHIPPED = sorted(path for path in CONFIGS.glob("*.py") if path.stem != "compare")


@pytest.fixture()
def spec(tmp_path: Path) -> str:
    (tmp_path / "some.py").write_text(CONFIG)
    return str(tmp_path / "some.py")


def test_the_argument_behind_the_colon_is_given_to_the_config(spec: str) -> None:
    assert settings.load(spec, []).model.size == "small"
    assert settings.load(f"{spec}:large", []).model.size == "large"


@pytest.mark.parametrize(
    ("override", "group", "name", "value"),
    [
        ("train.steps=5", "train", "steps", 5),
        ("train.learning_rate=3e-4", "train", "learning_rate", 3e-4),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        ("train.learning_rate=inf", "train", "learning_rate", float("inf")),
        ("train.schedule=cosine", "train", "schedule", "cosine"),
        ("train.schedule=runs/a=b", "train", "schedule", "runs/a=b"),
        ("train.resume=False", "train", "resume", False),
        ("log_every=1", "", "log_every", 1),
        # What stands in a text setting stays text, whatever it looks like.
        ("train.schedule=2018", "train", "schedule", "2018"),
    ],
)
def test_an_override_replaces_one_value_and_keeps_its_type(
    override: str, group: str, name: str, value: Any, spec: str
) -> None:
    config = settings.load(spec, [override])
    found = config[group][name] if group else config[name]
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win(spec: str) -> None:
    assert settings.load(spec, ["train.steps=5", "train.steps=6"]).train.steps == 6


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("train.step=5", ["'train.step=5': no such setting", "train.steps"]),
        ("steps=5", ["no such setting", "train.steps"]),
        ("train=5", ["no such setting"]),
        ("train.steps", ["no such setting; write name=value"]),
        ("zzz=1", ["no such setting", "log_every"]),
        ("train.steps=many", ["train.steps is of type int"]),
        ("train.steps=1.5", ["train.steps is of type int"]),
        ("train.steps=None", ["train.steps is of type int"]),
        ("train.steps=True", ["train.steps is of type int"]),
        ("train.steps=", ["train.steps is of type int"]),
        ("train.learning_rate=fast", ["train.learning_rate is of type float"]),
        ("train.resume=1", ["train.resume is of type bool"]),
    ],
)
def test_an_unknown_name_or_another_type_is_refused(
    override: str, fragments: list[str], spec: str
) -> None:
    with pytest.raises(UserError) as caught:
        settings.load(spec, [override])
    message = str(caught.value)
    assert all(fragment in message for fragment in fragments), message
    assert "\n" not in message


def test_a_missing_file_and_a_file_without_a_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.py not found"):
        settings.load(f"{tmp_path}/nowhere.py:tiny", [])
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="has no function get_config"):
        settings.load(f"{tmp_path}/empty.py", [])


def test_a_config_in_a_bucket_is_refused() -> None:
    with pytest.raises(UserError, match="--config=gs://b/bert.py:tiny: a config is read from this"):
        settings.load("gs://b/bert.py:tiny", [])


def test_a_config_for_another_command_and_a_size_too_many_are_refused(tmp_path: Path) -> None:
    text = "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({})\n"
    (tmp_path / "none.py").write_text(text)
    with pytest.raises(UserError, match=r"none\.py: is for another command \(it has no model\)"):
        settings.load(f"{tmp_path}/none.py", [], settings.TRAINING)
    with pytest.raises(UserError, match=r"none\.py:tiny: too many positional arguments"):
        settings.load(f"{tmp_path}/none.py:tiny", [])


def test_a_config_may_build_on_the_one_beside_it(tmp_path: Path, spec: str) -> None:
    text = "from some import get_config as some\n\ndef get_config():\n    return some('base')\n"
    (tmp_path / "other.py").write_text(text)
    assert settings.load(f"{tmp_path}/other.py", ["log_every=3"]).model.size == "base"


def test_lamb_is_the_recipe_of_76_minutes() -> None:
    """You et al. 2020: 64k rows, then 32k of length 512, in 8,599 steps; rates of NVIDIA's."""
    path = next(path for path in SHIPPED if path.stem == "lamb")
    config = settings.load(str(path), [])
    short, long = (SimpleNamespace(manifest=SimpleNamespace(max_seq_length=n)) for n in (128, 512))
    plan = phases.plan(config, short, long)
    assert [(p.batch_size, p.num_steps) for p in plan] == [(65_536, 7_038), (32_768, 1_561)]
    schedule = phases.schedule(config, plan)
    assert schedule.name == "sqrt"
    peaks = [float(schedule.rate(np.int32(step))) for step in (2_000, 7_038 + 199)]
    assert peaks == pytest.approx([6e-3, 4e-3])
    # The second warm-up begins where the first stretch has ended at 0.
    assert float(schedule.rate(np.int32(7_037))) < 1e-4
    assert float(schedule.rate(np.int32(7_038))) == pytest.approx(4e-3 / 200)
    warm = [2_001 / 7_038, 200 / 1_561]
    assert warm == pytest.approx([0.2843, 0.128], abs=2e-4)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_names_a_known_size(path: Path) -> None:
    config = settings.load(str(path), [])
    assert config.model.size in encoders.entry(config.encoder).sizes
    assert (path.read_text().split('"""')[1]).count("python -m bertjax.") >= 1


def _examples(config: Path) -> list[list[str]]:
    """The words behind each `python -m bertjax.pretrain` of a config's docstring."""
    told = (ast.get_docstring(ast.parse(config.read_text())) or "").replace("\\\n", " ")
    return [line.split()[3:] for line in told.splitlines() if "-m bertjax.pretrain" in line]


@pytest.mark.parametrize("config", SHIPPED, ids=lambda path: path.stem)
def test_the_examples_of_a_config_spend_their_steps_on_training(config: Path) -> None:
    """A warm-up for a million steps would be half of a short run."""
    examples = _examples(config)
    assert examples
    for command in examples:
        flags = dict(word.split("=", 1) for word in command)
        given = [f"{name}={value}" for name, value in flags.items() if not name.startswith("--")]
        train = settings.load(str(CONFIGS.parent / flags["--config"]), given).train
        assert not train.steps or train.warmup_steps <= train.steps / 4, command
