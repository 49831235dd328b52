"""Inputs and targets of generation: rows by hand, one layout for training and decoding, batches."""

from typing import Any

import numpy as np
import pytest
import torch

from blankfill.data.batching import collate
from blankfill.objectives import TargetNoise
from blankfill.objectives.query_tokens import masked_target
from blankfill.tasks.batching import ANSWER, Epochs, EvaluationBatches, pack
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.text.seq2seq import DrawnTargets, Writing
from blankfill.tasks.text.seq2seq_model import Search, WritingModel
from blankfill.training.loss import counts
from conftest import within
from generate_models import WORDS, objective_of, random_model, wordpiece

VOCABULARY = wordpiece(words=[*WORDS, "[PSEUDO]"]).vocabulary()
ROLES = VOCABULARY.roles
PAD, CLS, SEP, MASK, GMASK, SOP, EOP, EOS = (
    ROLES[name] for name in ("pad", "cls", "sep", "mask", "gmask", "sop", "eop", "eos")
)  # fmt: skip
LONG = [[20, 21, 22], [23], [24, 25, 11, 12, 13, 14], [15, 16], [17], [18, 19, 20, 21]]


def writing(name: str, longest: int = 4, length: int = 0, blank: Any = "mask") -> Writing:
    return Writing(InputFormat(objective_of(name).format(VOCABULARY), length), longest, blank)


def test_a_row_of_glm() -> None:
    """Position 1 stays at the mask, position 2 counts from [S]; the target sees the source and what is before it."""
    reads = writing("glm")
    source = reads.source([20, 21], [22])
    assert source.row.ids.tolist() == [CLS, 20, 21, SEP, 22, MASK, EOS] and source.row.blank == 5 and source.cut == 0
    encoded = reads.encoded(source, [23, 24])
    (example,) = encoded.examples
    assert example.input_ids.tolist() == [*source.row.ids.tolist(), SOP, 23, 24]
    assert example.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 5, 5, 5], [0] * 7 + [1, 2, 3]]
    assert encoded.columns[0].tolist() == [7, 8, 9] and encoded.answers.tolist() == [23, 24, EOP]
    visible = example.rule.visible()
    assert visible[:7, :7].all() and not visible[:7, 7:].any() and visible[7:, :7].all()
    assert np.array_equal(visible[7:, 7:], np.tri(3, dtype=bool))
    with_gmask = writing("glm", blank="gmask").source([20])
    assert with_gmask.row.ids.tolist() == [CLS, 20, GMASK] and with_gmask.row.blank == 2


def test_a_row_of_gpt() -> None:
    reads = writing("gpt")
    encoded = reads.encoded(reads.source([20, 21], [22]), [23, 24])
    (example,) = encoded.examples
    assert example.input_ids.tolist() == [EOS, 20, 21, SEP, 22, SEP, 23, 24]
    assert example.positions.tolist() == [list(range(8))]
    assert encoded.columns[0].tolist() == [5, 6, 7] and encoded.answers.tolist() == [23, 24, EOS]
    assert np.array_equal(example.rule.visible(), np.tri(8, dtype=bool))


def test_rows_of_two_stacks() -> None:
    """The source in one row, the target in the other; the decoder's start token is not a target."""
    cases = {
        "t5": ([20, 21, 22, EOS], [PAD, 23, 24], [0, 1, 2], EOS, 0),
        "bart": ([CLS, 20, 21, SEP, 22, SEP], [SEP, CLS, 23, 24], [1, 2, 3], SEP, 2),
    }
    for name, (read, written, columns, end, first) in cases.items():
        reads = writing(name)
        source = reads.source([20, 21], [22])
        assert source.row.ids.tolist() == read and source.cut == 0
        encoded = reads.encoded(source, [23, 24])
        (example,) = encoded.examples
        assert example.context is not None and example.context.input_ids.tolist() == read
        assert example.context.positions.tolist() == [list(range(first, first + len(read)))]
        assert example.context.rule.visible().all() and not len(example.target_ids)
        assert example.input_ids.tolist() == written
        assert example.positions.tolist() == [list(range(first, first + len(written)))]
        assert np.array_equal(example.rule.visible(), np.tri(len(written), dtype=bool))
        assert encoded.columns[0].tolist() == columns and encoded.answers.tolist() == [23, 24, end]
        context = reads.context(source)
        assert context.input_ids.tolist() == written[: columns[0] + 1] and context.source is not None
        assert context.source.input_ids.tolist() == read and context.columns == len(read) + columns[0] + 1
        assert writing(name, longest=0).longest == {"t5": 48, "bart": 46}[name]
        cut = writing(name, length=6).source([20, 21, 22, 23, 24], [11, 12])
        assert len(cut.row.ids) == 6 and cut.cut == {"t5": 2, "bart": 4}[name]
        assert reads.encoded(source, [23] * 5).answers.tolist() == [23] * 4
    assert writing("t5").format.second_prefix == " " and writing("bart").format.second_prefix == ""


def test_what_is_too_long_is_cut() -> None:
    """A GLM's source may fill the row; a GPT's leaves room for the target. A target that is cut has no end."""
    reads = writing("glm", longest=2, length=7)
    source = reads.source([20, 21, 22, 23, 24], [25])
    assert source.row.ids.tolist() == [CLS, 20, 21, SEP, 25, MASK, EOS] and source.cut == 3
    assert reads.encoded(source, [11, 12]).answers.tolist() == [11, 12, EOP]
    assert reads.encoded(source, [11, 12, 13]).answers.tolist() == [11, 12]
    reads = writing("gpt", longest=2, length=7)
    source = reads.source([20, 21, 22, 23, 24])
    assert source.row.ids.tolist() == [EOS, 20, 21, 22, SEP] and source.cut == 2
    assert len(reads.encoded(source, [11, 12]).examples[0]) == 7


def test_rows_of_unilm() -> None:
    """Learnt in one row with types 4 and 5; measured with a mask behind the text for each token and the end."""
    reads = writing("unilm")
    source = reads.source([20, 21], [22])
    assert source.row.ids.tolist() == [CLS, 20, 21, SEP, 22, SEP] and source.cut == 0
    learnt = reads.learnt(source, [23, 24])
    (example,) = learnt.examples
    assert example.input_ids.tolist() == [*source.row.ids.tolist(), 23, 24, SEP]
    assert example.positions.tolist() == [list(range(9)), [4] * 6 + [5] * 3]
    assert learnt.columns[0].tolist() == [6, 7, 8] and learnt.answers.tolist() == [23, 24, SEP]
    visible = example.rule.visible()
    assert visible[:, :6].all() and not visible[:6, 6:].any() and np.array_equal(visible[6:, 6:], np.tri(3, dtype=bool))
    measured = reads.encoded(source, [23, 24])
    (example,) = measured.examples
    assert example.input_ids.tolist() == [*source.row.ids.tolist(), 23, 24, SEP, MASK, MASK, MASK]
    assert example.positions.tolist() == [[*range(9), 6, 7, 8], [4] * 6 + [5] * 6]
    assert measured.columns[0].tolist() == [9, 10, 11] and measured.answers.tolist() == [23, 24, SEP]
    asking = example.rule.visible()[9:]
    assert asking[:, :6].all() and np.array_equal(asking[:, 6:9], np.tri(3, k=-1, dtype=bool))
    assert np.array_equal(asking[:, 9:], np.eye(3, dtype=bool))
    assert (example.rule.visible()[:9, :9] == visible).all() and not example.rule.visible()[:9, 9:].any()


def test_unilm2_is_learnt_as_it_is_measured() -> None:
    reads = writing("unilm2")
    source = reads.source([20])
    (learnt,), (measured,) = reads.learnt(source, [23]).examples, reads.encoded(source, [23]).examples
    pseudo = ROLES["pseudo"]
    assert learnt.input_ids.tolist() == measured.input_ids.tolist() == [CLS, 20, SEP, 23, SEP, pseudo, pseudo]
    assert learnt.positions[1].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_masks_of_targets_are_drawn_anew_for_each_step_and_the_same_again() -> None:
    """70% of 9 tokens, of these and their end; of these 80% masks; a source is never masked."""
    reads = writing("unilm", longest=20)
    source = reads.source([20, 21])
    items = [reads.learnt(source, list(range(11, 20)))] * 400
    batches = reads.batches(items, Epochs(400, 200, 3), 0, 0)
    assert isinstance(batches, DrawnTargets)
    first, again, later = batches.chosen(0), batches.chosen(0), batches.chosen(2)
    ids = [np.stack([item.examples[0].input_ids for item in step]) for step in (first, again, later)]
    assert np.array_equal(ids[0], ids[1]) and not np.array_equal(ids[0], ids[2])
    assert (ids[0][:, :4] == source.row.ids).all()
    columns = np.stack([item.columns[0] for item in first])
    assert columns.shape == (200, 6) and columns.min() == 4 and columns.max() == 13
    counts_of = np.bincount(columns.ravel(), minlength=14)[4:]
    assert all(within(count / 200, 0.6, 200) for count in counts_of)
    whole = np.array([*source.row.ids, *range(11, 20), SEP])
    assert all((item.answers == whole[item.columns[0]]).all() for item in first)
    read_ids = np.take_along_axis(ids[0], columns.astype(np.int64), 1)
    assert within((read_ids == MASK).mean(), 0.8 + 0.1 / VOCABULARY.size, read_ids.size)
    untouched = np.ones(ids[0].shape, bool)
    np.put_along_axis(untouched, columns.astype(np.int64), False, 1)
    assert (ids[0][untouched] == np.broadcast_to(whole, ids[0].shape)[untouched]).all()


def test_as_many_masks_as_in_the_released_code() -> None:
    """max(1, round(0.7·n)) of n tokens, the end not among the n but among what may be masked."""
    rng = np.random.default_rng(0)
    format = objective_of("unilm").format(VOCABULARY, (128, 6))
    source = format.source([20])
    for tokens, masks in ((1, 1), (2, 1), (3, 2), (5, 4), (20, 14), (50, 35)):
        row = format.training_target(source, [11] * tokens + [SEP])
        drawn = [masked_target(row, VOCABULARY, rng).target_index for _ in range(60)]
        assert {len(columns) for columns in drawn} == {masks}
        assert any(3 + tokens in columns for columns in drawn)
    cut = Writing(InputFormat(format), 50).whole([11] * 51)  # of 50 tokens, without an end
    masked = masked_target(format.training_target(source, cut), VOCABULARY, rng)
    assert len(cut) == 50 and len(masked.target_ids) == 35


def test_noise_of_unilm2_is_that_of_the_released_code() -> None:
    """A tenth of the pseudo masks is random and a tenth the token itself; half of the target, its end included, is read
    as its pseudo masks are; the targets stay the same, and the noise is drawn anew in each step."""
    reads = writing("unilm2", longest=20)
    source, target = reads.source([20, 21]), np.array([*range(11, 20), SEP])
    items = [reads.learnt(source, target[:-1].tolist())] * 400
    assert reads.batches(items, Epochs(400, 200, 3), 0, 0).chosen(0)[0] is items[0]
    batches = reads.batches(items, Epochs(400, 200, 3), 0, 0, TargetNoise(0.2, 0.5))
    steps = [batches.chosen(step) for step in (0, 0, 1)]
    ids = [np.stack([item.examples[0].input_ids for item in step]) for step in steps]
    assert np.array_equal(ids[0], ids[1]) and not np.array_equal(ids[0], ids[2])
    (first, count), read = (len(source.row.ids), len(target)), ids[0]
    assert all((item.columns[0] == np.arange(first + count, first + 2 * count)).all() for item in steps[0])
    assert all((item.answers == target).all() for item in steps[0])
    assert (read[:, :first] == source.row.ids).all()
    seen, masks = read[:, first : first + count], read[:, first + count :]
    share, size = 1 / VOCABULARY.size, masks.size
    assert within((masks == ROLES["pseudo"]).mean(), 0.8 + 0.1 * share, size)
    assert within((masks == target).mean(), 0.1 + 0.1 * share, size)
    assert ((seen == target) | (seen == masks)).all()
    changed = masks != target
    assert within((seen == masks)[changed].mean(), 0.5, int(changed.sum()))
    assert within((seen == masks)[:, -1][changed[:, -1]].mean(), 0.5, int(changed[:, -1].sum()))


@pytest.mark.parametrize("name", ["glm", "gpt", "unilm", "unilm2", "t5", "bart"])
def test_what_is_learnt_is_what_is_written(name: str) -> None:
    """The search's log-probability of a text is minus the training loss of that text: the same rows, cached or whole.

    And a batch of contexts, with several beams, finds what each finds alone."""
    reads, model = writing(name), WritingModel(random_model(name, sharp=5.0))
    sources = [reads.source(ids) for ids in LONG]
    contexts = [reads.context(source) for source in sources]
    search = Search(reads.longest, reads.end, beams=3)
    texts = search.run(model.encoder, contexts, VOCABULARY)
    for source, context, hypotheses in zip(sources, contexts, texts, strict=True):
        (alone,) = search.run(model.encoder, [context], VOCABULARY)
        assert [hypothesis.ids for hypothesis in alone] == [hypothesis.ids for hypothesis in hypotheses] and len(
            alone
        ) == 3
        for hypothesis in hypotheses:
            assert 0 < len(hypothesis.ids) <= 4
            batch = pack([reads.encoded(source, hypothesis.ids)], 0).batch
            loss = float(model(batch)[ANSWER].detach())
            assert -loss == pytest.approx(hypothesis.log_probability, abs=1e-3)
            assert hypothesis.score == pytest.approx(hypothesis.log_probability / (len(hypothesis.ids) + 1))
    assert search.run(model.encoder, contexts, VOCABULARY, columns=1) == [
        search.run(model.encoder, [context], VOCABULARY)[0] for context in contexts
    ]


@pytest.mark.parametrize("name", ["glm", "t5", "bart"])
def test_items_of_one_row_do_not_see_one_another(name: str) -> None:
    """The loss of a packed row is the sum of the losses of its items; smoothing is for learning alone."""
    reads, model = writing(name), WritingModel(random_model(name, sharp=3.0), smoothing=0.2).eval()
    items = [reads.encoded(reads.source(ids), ids[:3]) for ids in LONG]
    (packed,) = EvaluationBatches(items, 0)
    assert packed.batch.input_ids.shape[0] == 1 and counts(packed.batch) == {ANSWER: sum(len(i.answers) for i in items)}
    together = float(model(packed.batch)[ANSWER].detach())
    apart = [float(model(pack([item], 0).batch)[ANSWER].detach()) for item in items]
    assert together == pytest.approx(sum(apart), rel=1e-4)
    item = items[0]
    batch = collate([[item.examples[0]]], 0)
    logits = model.encoder.lm_head(model.encoder(batch).hidden[0, item.columns[0]], model.encoder.output_table)
    plain, smoothed = (
        torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(item.answers), label_smoothing=smoothing, reduction="sum"
        )
        for smoothing in (0.0, 0.2)
    )
    learnt = model.train()(pack([item], 0).batch)[ANSWER]
    torch.testing.assert_close(learnt, smoothed, rtol=1e-4, atol=1e-4)
    assert apart[0] == pytest.approx(float(plain.detach()), rel=1e-4)
