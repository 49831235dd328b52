"""Recipes: every shipped one is valid; all mistakes are reported at once, each by its name."""

import json
from pathlib import Path

import pytest

from blankfill.config.recipe import Recipe, from_values, load_recipe, read_values, recipe_names, to_values, to_yaml
from blankfill.errors import ConfigError, UserError


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    saved = tmp_path / f"{name}.yaml"
    saved.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(saved) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_lists_of_a_file_become_tuples(name: str) -> None:
    """JSON and YAML have lists alone; options are tuples, so that they compare, hash and cannot be changed."""
    recipe = load_recipe(name, {"train.samples": ["a [MASK]", "b"]})
    values = json.loads(json.dumps(to_values(recipe)))
    values["distil"]["layers"] = [0, 1]
    made = from_values(values)
    assert made.train == recipe.train and made.objective == recipe.objective and made.model == recipe.model
    assert made.train.samples == ("a [MASK]", "b") and made.distil.layers == (0, 1)
    assert {hash(section) for section in (made.train, made.distil, made.objective, made.model, made.corpus)}


@pytest.mark.parametrize("length", [1, 7, -128, 10**9])
def test_the_rows_of_the_first_phase_have_a_length_that_rows_can_have(length: int) -> None:
    problem = problems(train__phase1_length=length)[0]
    assert problem.startswith(f"train.phase1_length is {length}; it must be")


def test_the_rows_of_the_first_phase_are_the_shorter_ones() -> None:
    length = load_recipe("bert-nano").objective.length
    (problem,) = problems(train__phase1_length=length + 1)
    assert "must not be above objective.length" in problem and str(length) in problem
    assert load_recipe("bert-nano", {"train.phase1_length": length}).train.phase1_length == length


def test_the_issue_names_these_recipes() -> None:
    wanted = "bert-nano glm-nano gpt-nano mlm-nano bert-base bert-large glm-base glm-large roberta-base gpt2"
    assert set(wanted.split()) <= set(recipe_names())


def test_published_settings() -> None:
    bert = load_recipe("bert-base").train
    assert (bert.lr, bert.batch_size, bert.steps, bert.warmup_steps) == (1e-4, 256, 1_000_000, 10_000)
    glm = load_recipe("glm-large").train
    assert (glm.lr, glm.steps, glm.warmup_steps, glm.weight_decay) == (2e-4, 200_000, 8_000, 0.1)
    assert (glm.min_lr, glm.schedule, glm.beta2, glm.eps) == (0.05, "cosine", 0.98, 1e-6)
    roberta = load_recipe("roberta-base").train
    assert (roberta.lr, roberta.max_grad_norm, roberta.decay_all, roberta.beta2) == (5e-4, 0.0, True, 0.98)
    gpt2 = load_recipe("gpt2").train
    assert gpt2.batch_size * load_recipe("gpt2").objective.length == 491_520
    assert (gpt2.lr, gpt2.min_lr, gpt2.warmup_steps, gpt2.beta2) == (6e-4, 0.1, 2000, 0.95)


def test_glm_130b_has_the_published_schedule() -> None:
    """Table 11 of its paper: 192 → 4,224 rows by 24, the rate 1e-7 → 8e-5 → 8e-6, all counted in samples."""
    recipe = load_recipe("glm-130b")
    train, rows = recipe.train, recipe.train.row_schedule
    sizes = [len(rows.rows(step)) for step in range(5000)]
    assert sorted(set(sizes)) == list(range(192, 4225, 24))
    assert sizes[0] == 192 and sizes[rows.step_of(5_493_164) + 1] == 4224 and sizes[rows.step_of(5_460_000)] < 4224
    assert rows.first(train.steps) * recipe.objective.length == pytest.approx(400e9, rel=1e-3)
    assert train.lr_at(0) == pytest.approx(1e-7, rel=0.2)
    assert train.lr_at(rows.step_of(1_098_632)) == pytest.approx(8e-5, rel=1e-3)
    whole = load_recipe("glm-130b", {"train.steps": 55_000}).train
    assert whole.lr_at(whole.row_schedule.step_of(197_753_905)) == pytest.approx(8e-6, rel=1e-3)
    assert (train.beta2, train.weight_decay, train.eps, train.embedding_gradient_shrink) == (0.95, 0.1, 1e-8, 0.1)
    assert (recipe.prompts.share, recipe.prompts.max_rows, recipe.prompts.max_length) == (0.05, 100_000, 512)
    model = recipe.model_config(recipe.corpus.vocab_size)
    assert model.vocab_size == 150_528 and model.position_sizes == (2048,)


def problems(**overrides: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_recipe("bert-nano", {key.replace("__", "."): value for key, value in overrides.items()})
    return caught.value.problems


def test_all_mistakes_at_once_with_the_nearest_name() -> None:
    sentences = problems(train__lrr=1, model__hidden_size="wide", objective__lenght=8, sed=3)
    assert len(sentences) == 4
    text = "\n".join(sentences)
    assert "no option train.lrr; did you mean train.lr?" in text
    assert "no option objective.lenght; did you mean objective.length?" in text
    assert "no option sed; did you mean seed?" in text
    assert "model.hidden_size is 'wide'; it must be a whole number" in text


def test_wrong_types_and_values() -> None:
    assert "train.schedule" in problems(train__schedule="wavy")[0]
    assert "seed is 'x'" in problems(seed="x")[0]
    assert "at most 4294967295" in problems(seed=2**32)[0] and "not be negative" in problems(seed=-1)[0]
    assert (
        "train.batch_size_start is 64; it must not be above"
        in problems(train__batch_size_start=64, train__batch_size=32)[0]
    )
    assert "train.momentum is 1.0" in problems(train__momentum=1.0)[0]
    problem = problems(objective__name="brt")[0]
    known = "bert, mlm, albert, spanbert, ernie, unilm, unilm2, glm, chatglm, glm-130b, gpt, xlnet, t5, bart, electra"
    assert f"objective.name is 'brt'; it must be one of {known} (did you mean bert?)" in problem
    sentences = problems(train__steps=0, objective__mask_ratio=2.0, model__num_heads=3)
    assert len(sentences) == 3


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_objective_with_two_sides_needs_two_stacks(name: str) -> None:
    values = {"name": "mine", "objective": {"name": name}, "model": {"family": "gpt2"}}
    (problem,) = from_values(values).problems()
    assert f"objective `{name}` needs an encoder and a decoder" in problem
    assert "model.family `gpt2` has only one stack; families with both: t5, " in problem


def test_two_stacks_need_an_objective_with_two_sides() -> None:
    (problem,) = from_values({"name": "mine", "objective": {"name": "gpt"}, "model": {"family": "bart"}}).problems()
    assert problem.startswith(
        "model.family `bart` has an encoder and a decoder, and objective `gpt` has rows for one stack; choose"
    )


def test_length_above_the_positions() -> None:
    (problem,) = problems(model__positions=64)
    assert "objective.length needs 128 positions but model.positions is 64" in problem


def test_objective_and_family_that_do_not_fit() -> None:
    (problem,) = problems(model__family="gpt2")
    assert "does not fit model.family `gpt2`" in problem and "bert, albert, spanbert, ernie, unilm2, glm" in problem


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: bert-nano\ntrain:\n  lr: 3e-4\n", encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.train.lr == 3e-4
    assert recipe.name == "mine"
    assert recipe.model == load_recipe("bert-nano").model


def test_a_base_with_another_objective_does_not_inherit_its_options() -> None:
    assert "name" in read_values("mlm-nano")["objective"]
    assert isinstance(load_recipe("mlm-nano"), Recipe)
    assert load_recipe("mlm-nano").objective.name == "mlm"


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean glm-nano"):
        load_recipe("glm-nan")
    broken = tmp_path / "broken.yaml"
    broken.write_text("train:\n  lr: [1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"broken.yaml, line \d+: not valid YAML"):
        load_recipe(broken)
    listed = tmp_path / "listed.yaml"
    listed.write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(UserError, match="key: value"):
        load_recipe(listed)
    with pytest.raises(ConfigError, match="must be a section"):
        from_values({"objective": {"name": "gpt"}, "model": {"family": "gpt2"}, "train": 3})


def test_a_recipe_that_is_built_on_itself_is_refused(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "b"), ("own", "own")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {tmp_path / base}.yaml\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"b\.yaml is built on .*c\.yaml is built on .*b\.yaml, so it has no beginning"):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"own\.yaml is built on .*own\.yaml, so it has no beginning"):
        load_recipe(tmp_path / "own.yaml")


@pytest.mark.parametrize("text", ["objective: [1]\n", "objective: 3\n", "name: {a: 1}\n", "train: {steps: '???'}\n",
                                  "train: {steps: '${x}'}\n", "train: {lr: " + "9" * 400 + "}\n", "base: [x]\n",
                                  "model: {hidden_size: " + "9" * 30 + "}\n", "? [a]\n: b\n", "model: null\n",
                                  "train: {steps: ${oc.env:HOME}}\n", "&a [*a]\n", "model: {num_layers: 1000000000}\n",
                                  "base: " + "x" * 5000 + "\n"])  # fmt: skip
def test_odd_values_are_one_sentence(tmp_path: Path, text: str) -> None:
    base = "" if "base:" in text or text[0] in "?&" else "base: bert-nano\n"
    (tmp_path / "odd.yaml").write_text(base + text, encoding="utf-8")
    with pytest.raises(UserError):
        load_recipe(tmp_path / "odd.yaml")
