"""The worked cases of the specification sheet, with the choices given (shared/spec/test_vectors.json)."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from blankfill.objectives import T5, Albert, Bart, Bert, Glm, Gpt, Mlm, SpanBert, Unilm, Xlnet
from blankfill.objectives.albert import AlbertChoice
from blankfill.objectives.bart import RAREST, BartChoice, infilled, trimmed
from blankfill.objectives.bart import span_law as bart_law
from blankfill.objectives.base import Masked
from blankfill.objectives.bert import BertChoice, candidates, take_candidates
from blankfill.objectives.ernie import mask_units
from blankfill.objectives.glm import GlmChoice, infill, span_law
from blankfill.objectives.spanbert import SpanChoice, cover, length_law, replaced
from blankfill.objectives.t5 import T5Choice, interleaved, segments, span_counts
from blankfill.objectives.unilm import UnilmChoice
from blankfill.objectives.unilm2 import Unilm2Choice, pseudo_masked
from blankfill.objectives.xlnet import XlnetChoice
from blankfill.types import AttentionRule, Document, Vocabulary
from conftest import VECTORS

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not VECTORS.exists(), reason="the worked cases lie beside the project and are absent"),
]


def vector(name: str) -> tuple[dict[str, Any], Any]:
    """The given and expected halves of a case."""
    case = json.loads(VECTORS.read_text(encoding="utf-8"))[name]
    return case["given"], case["expect"]


class Words:
    """A vocabulary of whatever words a case uses; ids in order of first sight."""

    def __init__(self, **roles: str) -> None:
        self.ids: dict[str, int] = {}
        self.roles = {role: self(word) for role, word in roles.items()}

    def __call__(self, word: str) -> int:
        return self.ids.setdefault(word, len(self.ids))

    def row(self, words: list[str]) -> np.ndarray:
        return np.array([self(word) for word in words], np.int32)

    def names(self, ids: np.ndarray) -> list[str]:
        back = {number: word for word, number in self.ids.items()}
        return [back[int(number)] for number in ids]

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(1000, self.roles, frozenset(self.roles.values()))


BERT_ROLES = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
GLM_ROLES = BERT_ROLES | {"eos": "[EOS]", "sop": "[S]", "eop": "[E]", "smask": "[sMASK]", "gmask": "[gMASK]"}


def strings(visible: np.ndarray) -> list[str]:
    return ["".join("1" if cell else "0" for cell in row) for row in visible]


def test_bert_mlm_nsp() -> None:
    given, expect = vector("bert_mlm_nsp")
    words = Words(**BERT_ROLES)
    ids = words.row(given["segment_a"] + given["segment_b"])
    middle = len(given["segment_a"])
    document = Document(ids, np.array([0, middle, len(ids)], np.int32), label=int(given["is_random_next"]))
    objective = Bert(length=given["max_seq_length"], max_predictions=given["max_predictions"])
    length = len(ids) + 3
    assert objective.budget(length) == expect["budget"]
    units = [(unit[0], unit[-1] + 1) for unit in given["candidate_order"]]
    index = np.sort(take_candidates(units, np.arange(len(units)), expect["budget"]))
    inputs = [words(given["random_token"]["8"]) if i == 8 else words("[MASK]") for i in index]
    choice = BertChoice((0, middle), (middle, len(ids)), Masked(index.astype(np.int32), np.array(inputs, np.int32)))
    example = objective.build(document, words.vocabulary(), choice)
    real = sum(expect["input_mask"])
    assert words.names(example.input_ids) == expect["input_tokens"][:real]
    assert example.positions[0].tolist() == expect["position_ids"][:real]
    assert example.positions[1].tolist() == expect["segment_ids"][:real]
    answers = sum(weight > 0 for weight in expect["masked_lm_weights"])
    assert example.target_index.tolist() == expect["masked_lm_positions"][:answers]
    assert words.names(example.target_ids) == expect["masked_lm_tokens"][:answers]
    assert example.labels == {"next_sentence": expect["next_sentence_label"]}
    assert example.rule.visible().all()


def test_bert_whole_word() -> None:
    given, expect = vector("bert_whole_word")
    words = Words(**BERT_ROLES)
    row = words.row(given["tokens"])
    begins = np.array([not token.startswith("##") for token in given["tokens"]])
    units = candidates(row, begins, words.vocabulary())
    assert [list(range(*unit)) for unit in units] == expect["candidates"]
    objective = Bert(length=512, max_predictions=given["max_predictions"], whole_word=True)
    budget = objective.budget(len(row))
    assert budget == expect["budget"]
    order = np.array([units.index((unit[0], unit[-1] + 1)) for unit in given["candidate_order"]])
    index = np.sort(take_candidates(units, order, budget))
    assert index.tolist() == expect["positions"]
    assert words.names(row[index]) == expect["labels"]


def test_bert_budget_table() -> None:
    given, expect = vector("bert_budget_table")
    objective = Bert(length=512, mask_ratio=given["prob"], max_predictions=given["max_predictions"])
    assert {length: objective.budget(int(length)) for length in expect} == expect


def test_albert_sop() -> None:
    given, expect = vector("albert_sop")
    words = Words(**BERT_ROLES)
    ids = words.row(given["a"] + given["b"])
    middle = len(given["a"])
    document = Document(ids, np.array([0, middle, len(ids)], np.int32), label=0)
    nothing = Masked(np.zeros(0, np.int32), np.zeros(0, np.int32))
    for swap, wanted in zip(given["swap"], expect, strict=True):
        runs = [(0, middle), (middle, len(ids))]
        choice = AlbertChoice(runs[swap], runs[not swap], int(swap), nothing)
        example = Albert(length=16).build(document, words.vocabulary(), choice)
        assert words.names(example.input_ids) == wanted["tokens"]
        assert example.positions.tolist() == [list(range(len(wanted["tokens"]))), wanted["segment_ids"]]
        assert example.labels == {"sentence_order": wanted["label"]}


def test_unilm1_s2s() -> None:
    given, expect = vector("unilm1_s2s")
    words = Words(pad="[PAD]", cls="[SOS]", sep="[EOS]", mask="[MASK]")
    source, target = words.row(given["source"][1:-1]), words.row(given["target"][:-1])
    middle, ids = len(source), np.concatenate([source, target])
    document = Document(ids, np.array([0, middle, len(ids)], np.int32), label=0)
    index = np.array(given["masked"], np.int32)
    masked = Masked(index, np.full(len(index), words("[MASK]"), np.int32))
    for mode, wanted in (("sequence", expect["attention"]), ("left", expect["left_to_right"])):
        choice = UnilmChoice((0, middle), (middle, len(ids)), mode, masked)  # type: ignore[arg-type]
        example = Unilm(length=16).build(document, words.vocabulary(), choice)
        assert words.names(example.input_ids) == expect["input_tokens"]
        assert example.positions[0].tolist() == expect["position_ids"]
        answers = dict(zip(map(str, example.target_index), words.names(example.target_ids), strict=True))
        assert answers == expect["targets"]
        assert strings(example.rule.visible()) == wanted
    choice = UnilmChoice((0, middle), (middle, len(ids)), "right", masked)
    example = Unilm(length=16).build(document, words.vocabulary(), choice)
    assert strings(example.rule.visible().T) == expect["left_to_right"]


def test_unilm2_pmlm() -> None:
    given, expect = vector("unilm2_pmlm")
    words = Words(**BERT_ROLES, pseudo="[P]")
    words.ids["[M]"] = words.ids.pop("[MASK]")
    blocks = tuple((block[0] - 1, block[-1]) for block in given["factorisation"])
    index = np.array(sorted(column for block in blocks for column in range(*block)), np.int32)
    masked = Masked(index, np.full(len(index), words("[M]"), np.int32))
    example = pseudo_masked(words.row(given["x"]), Unilm2Choice(blocks, masked), words.vocabulary(), first_position=1)
    assert words.names(example.input_ids) == expect["input_tokens"]
    assert example.positions.tolist() == [expect["position_ids"], [0] * len(example)]
    answers = dict(zip(map(str, example.target_index), words.names(example.target_ids), strict=True))
    assert answers == expect["targets"]
    assert strings(example.rule.visible()) == expect["attention"]


def test_roberta_dynamic_mask() -> None:
    given, expect = vector("roberta_dynamic_mask")
    words = Words(pad="<pad>", cls="<s>", sep="</s>", mask="<mask>")
    ids = words.row(given["tokens"])[1:-1]
    document = Document(ids, np.array([0, len(ids)], np.int32))
    objective = Mlm(length=len(given["tokens"]), mask_specials=True)
    assert objective.count(len(given["tokens"]), given["u_rounding"]) == expect["num_mask"]
    assert objective.count(len(given["tokens"]), 0.5) == expect["num_mask_if_u_0_5"]
    inputs = np.array([words("<mask>"), words("</s>")], np.int32)
    example = objective.build(document, words.vocabulary(), Masked(np.array(given["chosen"], np.int32), inputs))
    assert words.names(example.input_ids) == expect["input_tokens"]
    assert example.positions[0].tolist() == expect["position_ids"]
    targets = ["<pad>"] * len(ids) + ["<pad>"] * 2
    for place, token in zip(example.target_index, words.names(example.target_ids), strict=True):
        targets[place] = token
    assert targets == expect["targets"]


def test_gpt_causal() -> None:
    given, expect = vector("gpt_causal")
    words = Words(pad="[PAD]", eos=given["eot"])
    block = given["block"]
    left = block + 1
    ids, parts = [], [0]
    for tokens in given["documents"]:
        taken = tokens[:left]
        ids += taken
        parts.append(len(ids))
        left -= len(taken) + 1
    document = Document(words.row(ids), np.array(parts, np.int32), last=left >= 0, parts=np.array(parts, np.int32))
    example = Gpt(length=8, documents="stream").build(document, words.vocabulary(), None)
    assert words.names(example.input_ids) == expect["x"]
    assert words.names(example.target_ids) == expect["y"]
    assert example.positions[0].tolist() == expect["position_ids"]
    assert strings(example.rule.visible()) == expect["attention"]


@pytest.mark.parametrize(
    ("name", "mask", "first_position"),
    [("glm_figure2", "mask", 1), ("glm_token_level_with_cls", "mask", 0), ("glm_sentence_level", "smask", 0)],
)
def test_glm_rows(name: str, mask: str, first_position: int) -> None:
    given, expect = vector(name)
    words = Words(**GLM_ROLES)
    choice = GlmChoice(tuple((a, b) for a, b in given["spans"]), tuple(given["part_b_order"]), mask)
    example = infill(words.row(given["tokens"]), choice, words.vocabulary(), first_position)
    assert words.names(example.input_ids) == expect["input_tokens"]
    assert example.positions.tolist() == [expect["position_1"], expect["position_2"]]
    assert strings(example.rule.visible()) == expect["attention"]
    targets = ["-"] * len(example)
    for place, token in zip(example.target_index, words.names(example.target_ids), strict=True):
        targets[place] = token
    assert targets == expect["targets"]
    assert int((example.rule.rank == 0).sum()) == expect["sep"]


def test_glm_with_cls_through_the_objective() -> None:
    """`build` frames the document as the worked row has it."""
    given, expect = vector("glm_token_level_with_cls")
    words = Words(**GLM_ROLES)
    ids = words.row(given["tokens"])[1:-1]
    choice = GlmChoice(tuple((a, b) for a, b in given["spans"]), tuple(given["part_b_order"]))
    example = Glm(length=16).build(Document(ids, np.array([0, len(ids)], np.int32)), words.vocabulary(), choice)
    assert words.names(example.input_ids) == expect["input_tokens"]


def test_glm_length_law() -> None:
    given, expect = vector("glm_length_law")
    law = np.diff(span_law(given["lam"]), prepend=0.0)
    low, high = given["support"]
    assert len(law) == high - low + 1
    assert law[0] == pytest.approx(expect["p1"], abs=1e-6)
    assert law @ np.arange(low, high + 1) == pytest.approx(expect["mean"], abs=1e-6)


def test_rules_of_later_objectives_can_be_said() -> None:
    """The same three vectors express UniLM's sequence-to-sequence mask and XLNet's two streams."""
    _, expect = vector("unilm1_s2s")
    assert strings(AttentionRule.prefix(4, 7).visible()) == expect["attention"]
    assert strings(AttentionRule.causal(7).visible()) == expect["left_to_right"]


def test_xlnet_two_streams() -> None:
    """Ranks and targets as given; the halves of five are permuted each on its own."""
    given, expect = vector("xlnet_two_stream")
    words = Words(pad="<pad>", cls="<cls>", sep="<sep>", mask="<mask>")
    first, second = given["tokens"][:6], given["tokens"][7:8]
    ids = words.row(first + second)
    order = np.array(given["rank_first_half"] + given["rank_second_half"], np.int32)
    choice = XlnetChoice((0, 6), (6, 7), np.array(given["is_masked"], np.int32), order)
    document = Document(ids, np.array([0, 6, 7], np.int32))
    example = Xlnet(length=10, permuted=given["perm_size"]).build(document, words.vocabulary(), choice)
    assert words.names(example.input_ids[:10]) == given["tokens"]
    assert words.names(example.target_ids) == expect["target_tokens"]
    assert example.positions[0, example.target_index].tolist() == expect["targets_at"]
    assert example.positions[1, :10].tolist() == expect["seg_ids"]
    seen = strings(example.rule.visible()[:, :10])
    assert seen[:10] == expect["content_stream"]
    assert dict(zip(map(str, expect["targets_at"]), seen[10:], strict=True)) == expect["query_stream"]


def test_spanbert_length_law() -> None:
    given, expect = vector("spanbert_length_law")
    law = np.diff(length_law(given["p"], given["max"]), prepend=0.0)
    assert law[0] == pytest.approx(expect["p1"], abs=1e-6)
    assert law[-1] == pytest.approx(expect["p10"], abs=1e-6)
    assert law @ np.arange(1, given["max"] + 1) == pytest.approx(expect["mean"], abs=1e-6)


@pytest.mark.parametrize("name", ["spanbert_merge_sbo", "spanbert_edge_no_sbo"])
def test_spanbert_spans_and_borders(name: str) -> None:
    given, expect = vector(name)
    words = Words(**BERT_ROLES)
    ids = words.row(given["sentence"])
    begins = np.isin(np.arange(len(ids)), [begin for begin, _ in given["words"]])
    objective = SpanBert(length=16, boundary=given["max_pair_targets"])
    assert objective.budget(len(ids)) == expect["budget"]
    spans = cover(begins, map(tuple, given["anchor_len_draws"]), expect["budget"])
    assert [[begin, end - 1] for begin, end in spans] == expect["merged_spans"]
    draw, rng = given["replacement_draw"], np.random.default_rng(0)
    inputs = [replaced(ids[slice(*span)], draw, 0.8, 0.1, words.vocabulary(), rng) for span in spans]
    document = Document(ids, np.array([0, len(ids)], np.int32))
    example = objective.build(document, words.vocabulary(), SpanChoice(tuple(spans), tuple(inputs)))
    assert words.names(example.input_ids) == expect["input_tokens"]
    assert words.names(example.target_ids) == [given["sentence"][k] for span in spans for k in range(*span)]
    assert example.span_boundary_targets is not None
    results = [
        (left, right, place, words.names([answer])[0]) for left, right, place, answer in example.span_boundary_targets.T
    ]
    assert results == [
        (pair["left"], pair["right"], place, token)
        for pair in expect["sbo_pairs"]
        for place, token in enumerate(pair["tokens"])
        if token != "[PAD]"
    ]
    assert example.rule.visible().all()


@pytest.mark.parametrize("level", ["word_level", "char_level"])
def test_ernie_masking(level: str) -> None:
    given, expect = vector("ernie1_masking")
    words = Words(**BERT_ROLES)
    row = words.row(given["tokens"])
    begins = np.array([level == "char_level" or label != 1 for label in given["seg_labels"]])
    units = candidates(row, begins, words.vocabulary())
    drawn = np.full(len(row), words(given["random_token"]), np.int32)
    masked = mask_units(row, units, np.array(given["prob"]), drawn, words.ids["[MASK]"], 0.15, 0.8, 0.1)
    assert masked.index.tolist() == expect[level]["positions"]
    assert words.names(row[masked.index]) == expect[level]["labels"]
    row[masked.index] = masked.inputs
    assert words.names(row) == expect[level]["input_tokens"]


def test_t5_lengths() -> None:
    given, expect = vector("t5_lengths")
    for length, wanted in expect.items():
        objective = T5(length=int(length), mask_ratio=given["density"], mean_span=given["mean_span"])
        assert [objective.raw_length(), objective.answer_length()] == wanted
        noise, spans = span_counts(objective.raw_length(), objective.mask_ratio, objective.mean_span)
        assert objective.raw_length() - noise + spans + 1 == int(length)


def test_t5_span_corruption() -> None:
    given, expect = vector("t5_span_corruption")
    runs, blanks = segments(np.array(given["nonnoise_shuffled"]) == 1), segments(np.array(given["noise_shuffled"]) == 1)
    assert runs.tolist() == expect["nonnoise_lengths"]
    assert blanks.tolist() == expect["noise_lengths"]
    counts = span_counts(len(given["tokens"]), given["density"], given["mean_span"])
    assert counts == (sum(expect["noise_lengths"]), len(expect["noise_lengths"]))
    noise = interleaved(runs, blanks)
    assert noise.astype(int).tolist() == expect["mask"]
    words = Words(pad="<pad>", eos="</s>")
    ids = words.row(given["tokens"])
    size = given["vocab_size"]
    sentinels = tuple(reversed(range(size - 100, size)))
    vocabulary = dataclasses.replace(words.vocabulary(), size=size, sentinels=sentinels)
    example = T5(length=16).build(Document(ids, np.array([0, len(ids)], np.int32)), vocabulary, T5Choice(noise))

    def names(ids: np.ndarray) -> list[Any]:
        return [number if number in sentinels else words.names([number])[0] for number in ids.tolist()]

    assert example.context is not None
    assert names(example.context.input_ids) == expect["inputs"]
    assert names(example.target_ids) == expect["targets"]
    assert names(example.input_ids) == expect["decoder_inputs"]


def test_t5_prefix_lm() -> None:
    given, expect = vector("t5_prefix_lm")
    words = Words(pad="<pad>", eos="</s>")
    ids = words.row(given["tokens"])
    choice = T5Choice(np.arange(len(ids)) >= given["prefix_len"])
    document = Document(ids, np.array([0, len(ids)], np.int32))
    example = T5(length=16, variant="prefix-lm").build(document, words.vocabulary(), choice)
    assert example.context is not None
    assert words.names(example.context.input_ids) == expect["inputs"]
    assert words.names(example.target_ids) == expect["targets"]


def test_bart_poisson_support() -> None:
    given, expect = vector("bart_poisson_support")
    assert given["cut"] == RAREST
    assert len(bart_law(given["lam"])) - 1 == expect["last_k_kept"]


def test_bart_noise() -> None:
    given, expect = vector("bart_noise")
    words = Words(pad="<pad>", cls="<s>", sep="</s>", mask="<mask>")
    row, mask = words.row(given["source"]), words("<mask>")
    assert math.ceil(given["mask_ratio"] * (len(row) - 2)) == expect["budget"]
    lengths, empty = trimmed(np.array(given["poisson_draws"]), expect["budget"])
    assert lengths.tolist() == expect["lengths_after_trim"]
    assert empty == len(given["insert_index"])
    spans = tuple((start, start + int(n)) for start, n in zip(given["span_starts"], lengths, strict=True))
    document = Document(row[1:-1], np.array([0, 4, 7], np.int32))
    inserted = tuple(given["insert_index"])
    as_it_is, singles = (0, 1), tuple((k, k + 1) for k in given["delete"])
    cases = {
        "infilled": (BartChoice(as_it_is, spans, inserted), "span"),
        "permuted": (BartChoice(tuple(given["sentence_order"])), "span"),
        "rotated": (BartChoice(as_it_is, offset=given["rotate_offset"]), "span"),
        "deleted": (BartChoice(as_it_is, singles), "delete"),
    }
    for name, (choice, replace) in cases.items():
        example = Bart(length=16, replace=replace).build(document, words.vocabulary(), choice)  # type: ignore[arg-type]
        assert example.context is not None
        assert words.names(example.context.input_ids) == expect[name]
        assert words.names(example.target_ids) == expect["target"]
        assert words.names(example.input_ids) == expect["decoder_input"]
    assert infilled(row, ((2, 4), (5, 6)), "token", mask).tolist().count(mask) == expect["budget"]
