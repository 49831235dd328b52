"""The cloze: targets and their columns, scores compared with plain loops over single rows, PET's losses."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.attention.kernels import best_kernel
from blankfill.attention.masks import lower
from blankfill.checkpoint.load import Loaded
from blankfill.errors import ConfigError, UserError
from blankfill.model.io import Inputs
from blankfill.objectives import Glm, Gpt
from blankfill.tasks import batching
from blankfill.tasks.adapters import CLOZE
from blankfill.tasks.batching import ITEM, Batches, Epochs, pack
from blankfill.tasks.cloze.items import longest_kept
from blankfill.tasks.cloze.model import TEXT, hinge_loss
from blankfill.tasks.cloze.targets import ClozeTargets
from blankfill.tasks.cloze.texts import WithTexts, masked
from blankfill.tasks.datasets.tabular import tabular_task
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import ChoiceItem, Item, TextItem
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.training import HeadEvaluator
from conftest import VECTORS
from generate_models import loaded, random_model

SINGLE = "verbalizers: {a: [cat, dog], b: mat}\npatterns: ['{first} sat on [MASK]. || {second} ran']\n"
SEVERAL = "verbalizers: {a: [playing cat, dog], b: red mat}\npatterns: ['{first} sat on [MASK]. || {second} ran']\n"
CHOICES = "answer: '{choice}'\npatterns: ['{context} sat on [MASK].']\n"
TEXTS = [
    TextItem("0", "the cat", "big dog", 0), TextItem("1", "the big red dog ran", "un", 1),
    TextItem("2", "cat", "dog", 1),
]  # fmt: skip
CHOOSE = [ChoiceItem("0", "the dog", ("red mat", "cat"), 1), ChoiceItem("1", "cat", ("dog", "big", "playing"), 0)]


def adapter(name: str, patterns: str, tmp_path: Any, kind: str = "classify", **more: Any) -> tuple[Loaded, Any]:
    """A random model of a family, and what reads items for it."""
    file = tmp_path / "own.yaml"
    file.write_text(patterns, encoding="utf-8")
    made = loaded(name, random_model(name))
    options = FinetuneOptions(method="cloze", patterns=str(file), **more)
    input_format = InputFormat(
        made.objective.format(made.vocabulary, made.model.config.position_sizes), options.max_length
    )
    labels = ("a", "b") if kind == "classify" else ()
    return made, CLOZE[kind](tabular_task(kind), labels, options, made.tokenizer, input_format)


def logs(made: Loaded, ids: Sequence[int], positions: Sequence[Sequence[int]], causal_from: int | None) -> torch.Tensor:
    """Log-probabilities of all words at all columns of one row, by the mask of the definition."""
    size = len(ids)
    see = torch.ones(size, size, dtype=torch.bool)
    if causal_from is not None:
        see = torch.ones(size, size).tril().bool()
        see[:, :causal_from] = True
    segment = torch.zeros(1, size, dtype=torch.int32)
    rank = torch.tensor([[max(0, k - causal_from + 1) if causal_from is not None else 0 for k in range(size)]])
    rank = rank.to(torch.int32)
    mask = lower("rule", (segment, rank), (segment, rank), torch.float32)
    with torch.no_grad():
        hidden = made.model(Inputs(torch.tensor([list(ids)]), torch.tensor(positions)[:, None], mask)).hidden[0]
        return made.model.lm_head(hidden, made.model.output_table)


def expected(made: Loaded, item: Item, words: Sequence[Sequence[str]], single: bool) -> list[float]:
    """The score of each label of an item, by a loop over words and tokens of single rows, for the patterns above."""
    token, encode = made.vocabulary.roles, made.tokenizer.encode
    first = encode(item.first if isinstance(item, TextItem) else item.context) + encode("sat on")
    second = encode(f"{item.second} ran") if isinstance(item, TextItem) else None
    spelled = [[encode(word) for word in ones] for ones in words]
    longest = max(len(word) for ones in spelled for word in ones)
    means = []
    for ones in spelled:
        scores = []
        for word in ones:
            if isinstance(made.objective, Gpt):
                row = [*first, *word]
                table = logs(made, row, [list(range(len(row)))], 0)
                places = range(len(first) - 1, len(row) - 1)
                targets = word
            elif isinstance(made.objective, Glm):
                text = [token["cls"], *first, token["mask"], *encode("."), *(second or []), token["eos"]]
                row = [*text, token["sop"], *word]
                behind = len(row) - len(text)
                place = [*range(len(text)), *[len(first) + 1] * behind]
                table = logs(made, row, [place, [0] * len(text) + list(range(1, behind + 1))], len(text))
                places, targets = range(len(text), len(row)), [*word, token["eop"]]
            else:
                blank = [token["mask"]] * longest
                text = [token["cls"], *first, *blank, *encode("."), token["sep"]]
                row = [*text, *second, token["sep"]] if second is not None else text
                offset = 2 if made.objective.name == "mlm" else 0
                channels = [list(range(offset, offset + len(row)))]
                if made.objective.name == "bert":
                    channels.append([0] * len(text) + [1] * (len(row) - len(text)))
                table = logs(made, row, channels, None)
                places, targets = range(len(first) + 1, len(row)), word
            table = table if single else table.log_softmax(1)
            if single:
                targets = word
            scores.append(sum(float(table[k, t]) for k, t in zip(places, targets, strict=False)))
        means.append(sum(scores) / len(scores))
    return means


def scores_of(made: Loaded, reads: Any, items: Sequence[Item]) -> list[np.ndarray]:
    """The scores that the product gives, all items packed together."""
    encoded_set = reads.encode(items)
    model = reads.model(made.model).eval()
    model.encoder.use_kernel(best_kernel(torch.device("cpu"), torch.float32))
    packed = pack(encoded_set.encoded, 0)
    with torch.no_grad():
        table = model.scores(packed.batch).numpy()
    assert packed.batch.labels[ITEM][1].sum() == len(items)
    return reads.added(encoded_set, [table[packed.items == k] for k in range(len(items))])


FAMILIES = ["bert", "mlm", "glm", "gpt"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("patterns", [SINGLE, SEVERAL], ids=["single", "several"])
def test_scores_are_those_of_a_plain_loop(name: str, patterns: str, tmp_path: Any) -> None:
    made, reads = adapter(name, patterns, tmp_path, multi_token="at-once")
    assert reads.single == (patterns is SINGLE)
    words = [reads.pattern.words[label] for label in ("a", "b")]
    for item, scores in zip(TEXTS, scores_of(made, reads, TEXTS), strict=True):
        assert scores == pytest.approx(expected(made, item, words, reads.single), abs=2e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_choices_are_written_into_the_blank(name: str, tmp_path: Any) -> None:
    made, reads = adapter(name, CHOICES, tmp_path, "choice", multi_token="at-once")
    for item, scores in zip(CHOOSE, scores_of(made, reads, CHOOSE), strict=True):
        assert scores == pytest.approx(expected(made, item, [[choice] for choice in item.choices], False), abs=2e-4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("kind", "patterns"), [("classify", SINGLE), ("classify", SEVERAL), ("choice", CHOICES)])
def test_packed_items_answer_as_single_ones(name: str, kind: str, patterns: str, tmp_path: Any) -> None:
    made, reads = adapter(name, patterns, tmp_path, kind)
    items: Sequence[Item] = TEXTS if kind == "classify" else CHOOSE
    model = reads.model(made.model)
    together = HeadEvaluator(reads, reads.encode(items), 0).predict(model, torch.device("cpu"), torch.float32)
    alone = [
        HeadEvaluator(reads, reads.encode([item]), 0).predict(model, torch.device("cpu"), torch.float32)
        for item in items
    ]
    assert together[1] == pytest.approx(float(np.mean([loss for _, loss in alone])), rel=1e-3)
    for actual, ([other], _) in zip(together[0], alone, strict=True):
        assert actual.value == other.value
        assert actual.record["probabilities"] == pytest.approx(other.record["probabilities"], abs=1e-4)
        assert sum(actual.record["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(not VECTORS.exists(), reason="the worked cases lie beside the project and are absent")
def test_targets_keep_their_names_through_a_batch() -> None:
    """Two words of two tokens and of one, the columns of the item's number before those of the targets."""
    words = [
        ClozeTargets.of_tokens(np.array(ids, np.int32), *rest)
        for ids, *rest in (([7, 8], 0, 3, True), ([9], 1, 2, False, True))
    ]
    table = np.concatenate([np.array([[4]] * 3), np.concatenate([word.table() for word in words])], axis=1)
    targets = ClozeTargets.from_table(torch.from_numpy(table))
    assert targets.token.tolist() == [7, 8, 9] and targets.label.tolist() == [0, 0, 1]
    assert targets.words.tolist() == [3, 3, 2] and targets.right.tolist() == [1, 1, 0]
    assert targets.in_turn.tolist() == [0, 0, 1]


def test_the_losses_are_those_of_pet(tmp_path: Any) -> None:
    """Raw scores at the mask are averaged over a label's words; cross-entropy over labels; the hinge of several."""
    case = json.loads(VECTORS.read_text(encoding="utf-8"))["pet_losses"]
    given, expect = case["given"], case["expect"]
    _, reads = adapter("bert", SINGLE, tmp_path)
    model = reads.model(random_model("bert"))
    words = given["verbalizers"]
    rows = [(given["mask_logits"][w] / len(ws), place) for place, ws in enumerate(words) for w in ws]
    answer = torch.tensor([[0, place, 0, len(words[place]), place == given["gold"], 0] for _, place in rows])
    scores = torch.tensor([[score] for score, _ in rows])
    ce = model.losses(scores, answer)[ITEM]
    assert float(ce) == pytest.approx(expect["ce"], abs=1e-6)
    alpha = given["alpha_code"]
    assert alpha * float(ce) + (1 - alpha) * given["mlm_loss"] == pytest.approx(expect["total"], abs=1e-6)
    several = given["multi_mask"]
    loss = hinge_loss(-torch.tensor([[several["ce_correct"], *several["ce_wrong"]]]), torch.tensor([0]))
    assert float(loss) == pytest.approx(expect["hinge"], abs=1e-6)


def test_several_masks_train_with_the_hinge_and_absent_choices_do_not_count(tmp_path: Any) -> None:
    _, reads = adapter("bert", CHOICES, tmp_path, "choice")
    assert reads.hinge
    model = reads.model(random_model("bert"))
    scores = torch.tensor([[-1.0], [-0.5], [-3.0], [-2.2], [-9.0]])
    right = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1), (1, 2, 0)]
    answer = torch.tensor([[item, label, 5, 1, is_right, 0] for item, label, is_right in right])
    assert float(model.losses(scores, answer)[ITEM]) == pytest.approx(1.5 + 0.2 + 0.0, abs=1e-6)
    assert not adapter("glm", CHOICES, tmp_path, "choice")[1].hinge


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_trains_the_model(name: str, tmp_path: Any) -> None:
    made, reads = adapter(name, SEVERAL, tmp_path)
    model = reads.model(made.model).train()
    batch = pack(reads.encode(TEXTS, learn=True).encoded, 0).batch
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(batch)[ITEM]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_long_texts_lose_their_ends_and_the_pattern_stays(tmp_path: Any) -> None:
    made, reads = adapter("bert", SINGLE, tmp_path, max_length=16)
    [encoded] = reads.encode([TextItem("0", "cat " * 30, "red dog", 0)]).encoded
    text = " ".join(made.tokenizer.token(id) for id in encoded.examples[0].input_ids.tolist())
    assert text == "[CLS] " + "cat " * 6 + "sat on [MASK] . [SEP] red dog ran [SEP]"
    assert reads.cut == 1
    assert longest_kept([30, 2], 8) == 6 and longest_kept([3, 4, 5], 20) == 5 and longest_kept([9, 9, 1], 10) == 4
    with pytest.raises(UserError, match="take 5 tokens where 3 fit"):
        adapter("bert", SINGLE, tmp_path, max_length=6)[1].encode(TEXTS)


def test_a_text_cannot_forge_a_blank(tmp_path: Any) -> None:
    made, reads = adapter("bert", SINGLE, tmp_path)
    [encoded] = reads.encode([TextItem("0", "the [MASK] sat", "dog", 0)]).encoded
    ids = encoded.examples[0].input_ids
    assert (ids == made.vocabulary["mask"]).sum() == 1
    assert set(encoded.columns[0].tolist()) == set(np.flatnonzero(ids == made.vocabulary["mask"]).tolist())


def in_turn(made: Loaded, before: list[int], word: list[int], after: list[int]) -> float:
    """The score of a word in one row, its tokens filled in one at a time, the likeliest first."""
    token, left, total = made.vocabulary.roles, dict(enumerate(word)), 0.0
    blank = [token["mask"]] * len(word)
    while left:
        row = [token["cls"], *before, *blank, *after, token["sep"]]
        offset = 2 if made.objective.name == "mlm" else 0
        channels = [list(range(offset, offset + len(row)))]
        channels += [[0] * len(row)] if made.objective.name == "bert" else []
        table = logs(made, row, channels, None).log_softmax(1)
        likely = {k: float(table[1 + len(before) + k, target]) for k, target in left.items()}
        best = max(likely, key=likely.__getitem__)
        total += likely[best]
        blank[best] = left.pop(best)
    return total


@pytest.mark.parametrize("name", ["bert", "mlm"])
def test_several_masks_are_filled_the_surest_first(name: str, tmp_path: Any) -> None:
    made, reads = adapter(name, CHOICES, tmp_path, "choice")
    items = [ChoiceItem("0", "the dog", ("red mat cat", "playing", "big dog sat on"), 1), CHOOSE[0]]
    encode = made.tokenizer.encode
    scores_by_item = scores_of(made, reads, items)
    for item, scores in zip(items, scores_by_item, strict=True):
        before = encode(f"{item.context} sat on")
        wanted = [in_turn(made, before, encode(choice), encode(".")) for choice in item.choices]
        assert scores == pytest.approx(wanted, abs=2e-4)
    _, quick = adapter(name, CHOICES, tmp_path, "choice", multi_token="at-once")
    assert not np.allclose(scores_of(made, quick, items)[0], scores_by_item[0], atol=1e-2)
    assert all(len(item.examples) == 1 for item in reads.encode(items, learn=True).encoded)  # learning takes one pass


@pytest.mark.parametrize("name", ["bert", "glm"])
def test_many_choices_in_narrow_rows_score_as_in_one_wide_row(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, reads = adapter(name, CHOICES, tmp_path, "choice")
    names = ("the", "cat", "dog sat", "ran", "on", "mat", "red", "big", "play", "un")
    items = [ChoiceItem("0", "the dog", names, 3), ChoiceItem("1", "cat", ("dog", "big red"), 0)]
    scores_by_width = {}
    for width in (16, 4096):
        monkeypatch.setattr(batching, "ROW", width)
        packed = pack(reads.encode(items).encoded, 0).batch
        assert (packed.input_ids.shape[1] < 40) == (width == 16)
        scores_by_width[width] = scores_of(made, reads, items)
    for narrow, wide in zip(scores_by_width[16], scores_by_width[4096], strict=True):
        assert narrow == pytest.approx(wide, abs=1e-5)


def test_at_most_ten_choices_are_learnt_and_one_right_one(tmp_path: Any) -> None:
    _, reads = adapter("bert", CHOICES, tmp_path, "choice")
    names = ["the", "cat", "dog", "sat", "ran", "on", "mat", "red", "big", "play", "un", "猫", "狗", "在"]
    item = ChoiceItem("0", "cat", tuple(names), 3, (3, 5))
    [learnt], [scored] = reads.encode([item], learn=True).encoded, reads.encode([item]).encoded
    assert len(set(scored.answers[:, 0].tolist())) == 14
    assert len(set(learnt.answers[:, 0].tolist())) == 10
    tokens = {int(token) for token in learnt.answers[:, 1]}
    assert reads.reader.word(" on")[0] not in tokens
    [right] = {int(token) for token in learnt.answers[learnt.answers[:, 3] == 1, 1]}
    assert right == reads.reader.word(" sat")[0]


def test_words_that_a_tokenizer_cannot_give_or_tell_apart(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="has no token for 'zebra'; give another word"):
        adapter("bert", SINGLE.replace("mat", "zebra"), tmp_path)
    with pytest.raises(ConfigError, match="pattern 0: Cat, the word of b, is to the tokenizer one of a too"):
        adapter("bert", SINGLE.replace("mat", "Cat"), tmp_path)
    _, reads = adapter("bert", CHOICES, tmp_path, "choice")
    assert len(reads.encode([ChoiceItem("0", "cat", ("zebra", "dog"), 1)]).encoded) == 1  # data may hold any word
    with pytest.raises(UserError, match="no token for ''; give another word"):
        reads.encode([ChoiceItem("0", "cat", ("", "dog"), 1)])
    with pytest.raises(UserError, match="needs text before the blank"):
        adapter("gpt", "verbalizers: {a: cat, b: dog}\npatterns: ['[MASK] {first}']\n", tmp_path)[1].encode(TEXTS)


def test_masked_texts_stand_beside_the_items(tmp_path: Any) -> None:
    made, reads = adapter("bert", SINGLE, tmp_path, mlm_weight=0.5)
    encoded = reads.encode(TEXTS).encoded
    texts = [item.examples[0] for item in encoded]
    steps = WithTexts(Batches(encoded, Epochs(3, 2, 0), 0), texts, made.vocabulary)
    [(_, [items, copies])] = list(steps.steps(0, 1))
    assert ITEM in items.labels and list(copies.labels) == [TEXT]
    assert len(steps.rows(0)) == len(items.input_ids) + len(copies.input_ids)
    assert max(steps.rows(0)) >= 3
    [(_, [_, again])] = steps.steps(0, 1)
    assert torch.equal(again.input_ids, copies.input_ids)
    index, target = copies.labels[TEXT]
    special = set(made.vocabulary.special)
    assert len(index) and not special & set(target.tolist())
    model, plain = reads.model(made.model).eval(), replace(reads.options, mlm_weight=0.0)
    assert model.text_weight == 0.5 and plain.problems() == []
    with torch.no_grad():
        table = model.encoder.lm_head(model.encoder(copies).hidden.flatten(0, 1)[index], model.encoder.output_table)
        wanted = torch.nn.functional.cross_entropy(table, target, reduction="sum")
        assert float(model(copies)[TEXT]) == pytest.approx(0.5 * float(wanted), rel=1e-4)


def test_fifteen_of_a_hundred_ordinary_tokens_are_masked() -> None:
    made = loaded("bert", random_model("bert", length=400), length=400)
    input_format = InputFormat(made.objective.format(made.vocabulary, (400, 2)))
    row = input_format.frame(np.full(200, 12)).example
    copies = [masked(row, made.vocabulary, np.random.default_rng(k)) for k in range(20)]
    assert {len(copy.answers) for copy in copies} == {30}
    masks = [(copy.examples[0].input_ids == made.vocabulary["mask"]).sum() for copy in copies]
    assert 21 < np.mean(masks) < 27  # 80% of 30
    assert all((copy.answers == 12).all() for copy in copies)
