"""ChatGLM-6B and GLM-130B: the two kinds of rows, their positions, and how their models read given text."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.errors import UserError
from blankfill.objectives import ChatGlm, Glm130b
from blankfill.objectives.chatglm import ChatGlmChoice
from blankfill.objectives.glm import GlmChoice
from blankfill.objectives.glm_format import with_part_b
from blankfill.types import ROLES, Document, Example, Vocabulary
from conftest import VECTORS, make_document, within

MASK, GMASK, SOP, EOP, EOS = (ROLES.index(role) for role in ("mask", "gmask", "sop", "eop", "eos"))
BOTH = [ChatGlm, Glm130b]
GOLDEN = VECTORS.parents[1] / "golden" / "chatglm"
needs_shared = pytest.mark.skipif(
    not GOLDEN.exists(), reason="the outputs of the original code lie beside the project and are absent"
)

text = st.lists(st.integers(20, 59), min_size=1, max_size=9)
maybe = st.lists(st.integers(20, 59), max_size=6)


def document(ids: list[int], last: bool = True) -> Document:
    return Document(np.array(ids, np.int32), np.array([0, len(ids)], np.int32), last=last)


def pieces(example: Example) -> list[Example]:
    """The rows of an Example that do not see each other."""
    rows = []
    for segment in range(int(example.rule.segment.max()) + 1):
        columns = np.flatnonzero(example.rule.segment == segment)
        inside = np.isin(example.target_index, columns)
        rows.append(
            Example(
                example.input_ids[columns], example.positions[:, columns],
                with_part_b(np.zeros(1, np.int32), [], np.zeros(0, np.int32), 0).rule,
                example.target_index[inside] - columns[0], example.target_ids[inside],
            )
        )  # fmt: skip
        first = int(rows[-1].target_index[0])
        rank = [0] * first + list(range(1, len(columns) - first + 1))
        assert example.rule.rank[columns].tolist() == example.rule.horizon[columns].tolist() == rank
    return rows


def filled(piece: Example, counting: bool = False) -> list[int]:
    """The text of a row, read from the row alone: each mask replaced by what is written into it."""
    first = int(piece.target_index[0])
    assert piece.target_index.tolist() == list(range(first, len(piece)))
    assert piece.positions[0, :first].tolist() == list(range(first)) and not piece.positions[1:, :first].any()
    context = piece.input_ids[:first].tolist()
    masks = [k for k, token in enumerate(context) if token in (MASK, GMASK)]
    begins = [k for k in range(first, len(piece)) if piece.input_ids[k] == SOP]
    assert begins[0] == first and len(begins) == len(masks)
    fills, used = {}, set()
    for k, (begin, end) in enumerate(zip(begins, [*begins[1:], len(piece)], strict=True)):
        answers = piece.target_ids[begin - first : end - first].tolist()
        assert piece.input_ids[begin + 1 : end].tolist() == answers[:-1]
        place = masks[k] if len(piece.positions) == 1 and counting else int(piece.positions[0, begin])
        place = masks[0] if counting else place
        wanted = range(begin, end) if counting else [place] * (end - begin)
        assert piece.positions[0, begin:end].tolist() == list(wanted)
        if len(piece.positions) == 2:
            assert piece.positions[1, begin:end].tolist() == list(range(1, end - begin + 1))
        assert place not in used
        used.add(place)
        fills[place] = answers[:-1] if answers[-1] == EOP else answers
    row = [token for k, part in enumerate(context) for token in fills.get(k, [part])]
    return row[:-1] if row[-1] == EOS else row


@pytest.mark.parametrize("kind", BOTH)
@given(
    size=st.integers(1, 130), last=st.booleans(), shuffle=st.booleans(), seed=st.integers(0, 999),
    positions=st.sampled_from(["frozen", "counting"]),
)  # fmt: skip
def test_filling_the_blanks_gives_back_the_text(
    vocabulary: Vocabulary, kind: type[ChatGlm], size: int, last: bool, shuffle: bool, seed: int, positions: str
) -> None:
    objective = kind(length=132, shuffle=shuffle, gmask_positions=positions)  # type: ignore[arg-type]
    given = make_document(size, last=last)
    example = objective.example(given, vocabulary, np.random.default_rng(seed))
    rows = pieces(example)
    is_gmask = GMASK in example.input_ids
    counting = is_gmask and positions == "counting"
    assert [token for row in rows for token in filled(row, counting)] == given.ids.tolist()
    assert len(rows) == (1 if is_gmask else -(-size // 33))
    for row in rows:
        context = row.input_ids[: row.target_index[0]]
        assert (context[-1] in (MASK, GMASK)) != (context[-1] == EOS) or kind is ChatGlm
        assert not (kind is ChatGlm and EOS in context)
        assert row.target_ids[-1] == EOP or (is_gmask and not last)
    sizes = objective.position_sizes()
    assert all(example.positions[k].max() < size for k, size in enumerate(sizes))
    if is_gmask:
        assert len(example) == size + (2 if last else 1)


def test_the_mixture(vocabulary: Vocabulary) -> None:
    """70% [gMASK], of which the written share is uniform between a fifth and all; 30% [MASK], 15% of the text, in four
    pieces."""
    objective = ChatGlm(length=102)
    given, rng = make_document(100), np.random.default_rng(0)
    choices = [objective.choose(given, vocabulary, rng) for _ in range(3000)]
    gmask = [choice for choice in choices if choice.pieces[0][1].mask == "gmask"]
    assert within(len(gmask) / 3000, 0.7, 3000)
    lengths = [end - begin for choice in gmask for begin, end in choice.pieces[0][1].spans]
    counts = np.bincount(lengths, minlength=101)
    assert not counts[:20].any() and all(within(share, 1 / 81, len(gmask)) for share in counts[20:] / len(gmask))
    others = [choice for choice in choices if choice.pieces[0][1].mask == "mask"]
    assert all([piece for piece, _ in choice.pieces] == [(0, 25), (25, 50), (50, 75), (75, 100)] for choice in others)
    blanked = [sum(e - b for b, e in part.spans) for choice in others for _, part in choice.pieces]
    assert min(blanked) >= 3 and np.mean(blanked) < 6
    single = ChatGlm(length=102, gmask_share=0.0, single_span=1.0, mask_length=100)
    for _ in range(50):
        ((_, part),) = single.choose(given, vocabulary, rng).pieces
        assert len(part.spans) == 1


@pytest.mark.parametrize("kind", BOTH)
@given(before=maybe, answer=text, after=maybe)
def test_blanks_of_a_given_text_are_rows_of_training(
    vocabulary: Vocabulary, kind: type[ChatGlm], before: list[int], answer: list[int], after: list[int]
) -> None:
    objective = kind(length=64)
    form = objective.format(vocabulary)
    mask = "mask" if after else "gmask"
    span = (len(before), len(before) + len(answer))
    whole = document([*before, *answer, *after])
    expected = objective.build(whole, vocabulary, ChatGlmChoice((((0, len(whole)), GlmChoice((span,), (0,), mask)),)))
    (row,) = form.blank(before, answer, after)
    context = form.blank_input([before, after], [mask], ())
    cloze = form.cloze_row(before, [*answer, *form.word_end], after) if after else row
    for made in (row, cloze):
        assert made.input_ids.tolist() == expected.input_ids.tolist()
        assert made.positions.tolist() == expected.positions.tolist()
        assert made.rule.visible().tolist() == expected.rule.visible().tolist()
        assert made.target_index.tolist() == expected.target_index.tolist()
        assert made.target_ids.tolist() == expected.target_ids.tolist() == [*answer, EOP]
    begin = int(expected.target_index[0]) + 1
    assert context.input_ids.tolist() == expected.input_ids[:begin].tolist()
    assert context.positions.tolist() == expected.positions[:, :begin].tolist()
    assert context.rule.visible().tolist() == expected.rule.visible()[:begin, :begin].tolist()
    for k in range(begin, len(expected)):
        assert (context.next_position + (k - begin) * context.step).tolist() == expected.positions[:, k].tolist()
    assert EOP in form.blank_end_ids([before, after], [mask], 0)


@pytest.mark.parametrize("kind", BOTH)
@given(before=maybe, rest=text, skipped=st.integers(0, 3))
def test_a_prompt_is_a_text_that_is_written_to_its_end(
    vocabulary: Vocabulary, kind: type[ChatGlm], before: list[int], rest: list[int], skipped: int
) -> None:
    objective = kind(length=64)
    form = objective.format(vocabulary)
    whole = [*before, *rest]
    choice = GlmChoice(((len(before), len(whole)),), (0,), "gmask", to_end=True)
    expected = objective.build(document(whole, last=False), vocabulary, ChatGlmChoice((((0, len(whole)), choice),)))
    window = form.window(whole, 0, len(before), len(whole))
    assert window.input_ids.tolist() == expected.input_ids.tolist()
    assert window.positions.tolist() == expected.positions.tolist()
    assert window.target_ids.tolist() == rest and window.target_index.tolist() == expected.target_index.tolist()
    start = form.continuation(before)
    assert start.input_ids.tolist() == [*before, GMASK, SOP]
    assert start.room == 64 - len(before) - 2
    one_way = form.window(whole, 0, len(before), len(whole), both_ways=False)
    assert one_way.input_ids.tolist() == [GMASK, SOP, *whole[:-1]] and one_way.target_ids.tolist() == rest
    assert form.end_ids == ([EOP] if kind is ChatGlm else [EOP, EOS])
    source = form.source(before)
    assert source.ids.tolist() == [*before, GMASK] and source.blank == len(before)
    target = form.target(source, [*rest, EOP])
    assert target.input_ids.tolist() == [*before, GMASK, SOP, *rest] and target.target_ids.tolist() == [*rest, EOP]
    learnt = form.training_target(source, [*rest, EOP])
    if kind is ChatGlm:
        assert learnt.target_ids.tolist() == [SOP, *rest, EOP]
        assert learnt.target_index.tolist() == list(range(len(before), len(learnt)))
    else:
        assert learnt.target_ids.tolist() == target.target_ids.tolist()
    opened = form.target_input(source, 10)
    assert opened.input_ids.tolist() == target.input_ids[: len(opened)].tolist() and opened.room == 10


@pytest.mark.parametrize("kind", BOTH)
def test_blanks_are_filled_from_left_to_right_each_in_its_place(vocabulary: Vocabulary, kind: type[ChatGlm]) -> None:
    form = kind(length=32).format(vocabulary)
    end = [] if kind is ChatGlm else [EOS]
    runs, roles = [[20], [21, 22], [23]], ["mask", "smask"]
    assert form.blank_input(runs, roles, ()).input_ids.tolist() == [20, MASK, 21, 22, MASK, 23, *end, SOP]
    second = form.blank_input(runs, roles, ([30, 31],))
    assert second.input_ids.tolist() == [20, 30, 31, 21, 22, MASK, 23, *end, SOP]
    assert second.positions[0, -1] == 5
    # a [gMASK] at the end waits for its turn
    runs, roles = [[20], [21], []], ["mask", "gmask"]
    assert form.blank_input(runs, roles, ()).input_ids.tolist() == [20, MASK, 21, *end, SOP]
    assert form.blank_input(runs, roles, ([30],)).input_ids.tolist() == [20, 30, 21, GMASK, SOP]


@pytest.mark.parametrize("roles", [["gmask", "mask"], ["gmask", "gmask"]])
def test_a_second_blank_behind_gmask_is_refused(vocabulary: Vocabulary, roles: list[str]) -> None:
    form = ChatGlm(length=32).format(vocabulary)
    with pytest.raises(UserError, match=r"\[gMASK\] stands for the rest of the text, so it can stand only once"):
        form.check_blanks([[20], [21], []], roles)
    with pytest.raises(UserError, match="can stand only once"):
        form.continuation([20], [21], "gmask")


def test_a_prompt_that_is_too_long_is_refused(vocabulary: Vocabulary) -> None:
    form = ChatGlm(length=16).format(vocabulary)
    form.continuation([20] * 14)
    with pytest.raises(UserError, match=r"the text has 17 tokens .* reads at most 16"):
        form.continuation([20] * 15)


def test_without_gmask_in_training_a_text_is_continued_at_a_mask(vocabulary: Vocabulary) -> None:
    form = ChatGlm(length=16, gmask_share=0.0).format(vocabulary)
    assert form.continuation([20]).input_ids.tolist() == [20, MASK, SOP]
    assert form.continuation([20], [21], "gmask").input_ids.tolist() == [20, MASK, 21, SOP]


def test_positions_before_march_2023_go_on_counting(vocabulary: Vocabulary) -> None:
    form = ChatGlm(length=16, gmask_positions="counting").format(vocabulary)
    row = form.target(form.source([20, 21]), [30, 31, EOP])
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]]
    start = form.continuation([20, 21])
    assert start.next_position.tolist() == [4, 2] and start.step.tolist() == [1, 1]


def test_impossible_options() -> None:
    problems = ChatGlm(gmask_share=1.5, document_ratio=-1, mask_length=-1).problems()
    assert len(problems) == 3
    assert any("objective.gmask_share is 1.5; it must be between 0 and 1" in problem for problem in problems)


@needs_shared
def test_the_worked_cases_of_the_specification() -> None:
    cases = json.loads(VECTORS.read_text(encoding="utf-8"))
    vocabulary = Vocabulary(60, {role: k for k, role in enumerate(ROLES)})
    case = cases["chatglm6b_training_row"]["expect"]
    form = ChatGlm(length=32).format(vocabulary)
    names = {"p1": 20, "p2": 21, "p3": 22, "r1": 30, "r2": 31, "[gMASK]": GMASK, "<sop>": SOP, "<eop>": EOP}
    row = form.training_target(form.source([20, 21, 22]), [30, 31, EOP])
    assert [*row.input_ids.tolist(), EOP] == [names[token] for token in case["input_tokens"]]
    assert row.positions.tolist() == [case["position_1"][:-1], case["position_2"][:-1]]
    predicted = {str(k): name for k, name in zip(row.target_index, row.target_ids, strict=True)}
    assert predicted == {k: names[name] for k, name in case["predicted_from"].items()}
    seen = ["".join(map(str, line)) for line in row.rule.visible().astype(int).tolist()]
    assert seen == [line[:-1] for line in case["attention"][:-1]]
    case = cases["glm130b_positions"]
    form = Glm130b(length=32).format(vocabulary)
    for kind, runs in (("mask", [[20, 21], [23]]), ("gmask", [[20, 21], []])):
        start = form.blank_input(runs, [kind], ())
        written = [(start.next_position + k * start.step).item() for k in range(case["given"]["generate"])]
        assert [*start.positions[0].tolist(), *written] == case["expect"][kind]
        assert len(start) == len(case["given"][f"{kind}_ctx"])


@needs_shared
def test_rows_of_the_original_code() -> None:
    """Ids, positions and masks of THUDM/chatglm-6b's tokenizer and model."""
    from safetensors.numpy import load_file

    golden = load_file(GOLDEN / "reference.safetensors")
    roles = {"pad": 3, "mask": 300, "gmask": 301, "sop": 304, "eop": 305}
    vocabulary = Vocabulary(320, roles)

    def same(name: str, row: Example, sequence: int = 0, cut: slice = slice(None)) -> None:
        ids = golden[f"{name}.input_ids"][sequence][cut]
        assert row.input_ids.tolist() == ids.tolist()[: len(row)]
        assert row.positions.tolist() == golden[f"{name}.position_ids"][sequence][..., cut][:, : len(row)].tolist()
        hidden = golden[f"{name}.attention_mask"][sequence, 0][cut, cut][: len(row), : len(row)]
        assert row.rule.visible().tolist() == (~hidden).tolist()

    form = ChatGlm(length=64).format(vocabulary)
    for sequence in range(2):
        row = golden["gmask.input_ids"][sequence]
        pads = int(np.argmax(row != 3))
        ids = row[pads:].tolist()
        end = ids.index(301)
        made = form.target(form.source(ids[:end]), [*ids[end + 2 :], 305])
        same("gmask", made, sequence, slice(pads, None))
        old = ChatGlm(length=64, gmask_positions="counting").format(vocabulary)
        made = old.target(old.source(ids[:end]), [*ids[end + 2 :], 305])
        before = golden["gmask.position_ids_before_20230331"][sequence][:, pads:]
        assert made.positions.tolist() == before.tolist()
    ids = golden["mask.input_ids"][0].tolist()
    at, end = ids.index(300), ids.index(304)
    start = form.blank_input([ids[:at], ids[at + 1 : end]], ["mask"], ())
    (made,) = form.blank(ids[:at], ids[end + 1 :], ids[at + 1 : end])
    same("mask", made)
    assert start.input_ids.tolist() == ids[: end + 1]
    # what is trained: the labels of the fine-tuning script, shifted by one inside the model
    for sequence, labels in enumerate(golden["train.labels"]):
        ids = golden["train.input_ids"][sequence].tolist()
        end, stop = ids.index(301), ids.index(305)
        made = form.training_target(form.source(ids[:end]), ids[end + 2 : stop + 1])
        trained = np.flatnonzero(labels != -100)
        assert made.target_ids.tolist() == labels[trained].tolist()
        assert (made.target_index + 1).tolist() == trained.tolist()
        assert made.input_ids.tolist() == ids[:stop]
    ids = golden["generate.gmask.output_ids"][0].tolist()
    prompt = golden["generate.gmask.input_ids"][0].tolist()
    begin = form.continuation(prompt[: prompt.index(301)])
    assert begin.input_ids.tolist() == prompt and ids[: len(prompt)] == prompt


@needs_shared
def test_rows_of_glm_130b() -> None:
    """Ids, positions and masks that THUDM/SwissArmyTransformer's model was run with."""
    from safetensors.numpy import load_file

    golden = load_file(GOLDEN / "glm130b_reference.safetensors")
    roles = json.loads((GOLDEN / "glm130b_config.json").read_text(encoding="utf-8"))["ids"]
    form = Glm130b(length=64).format(Vocabulary(256, {"pad": 3, **roles}))
    for name in ("gmask", "mask", "unidirectional"):
        ids = golden[f"{name}.input_ids"][0].tolist()
        sop, eop = ids.index(roles["sop"]), roles["eop"]
        written = ids[sop + 1 :]
        if name == "mask":
            at = ids.index(roles["mask"])
            (row,) = form.blank(ids[:at], written, ids[at + 1 : sop - 1])
        elif name == "gmask":
            row = form.target(form.source(ids[: sop - 1]), [*written, eop])
        else:
            row = form.window([*written, eop], 0, 0, len(written) + 1, both_ways=False)
        assert row.input_ids.tolist() == ids
        assert row.positions.tolist() == golden[f"{name}.position_ids"].tolist()
        assert row.rule.visible().tolist() == (~golden[f"{name}.attention_mask"][0, 0]).tolist()


def test_pieces_of_a_text_do_not_see_each_other(vocabulary: Vocabulary) -> None:
    objective = ChatGlm(length=66, gmask_share=0.0)
    example = objective.example(make_document(64), vocabulary, np.random.default_rng(0))
    seen = example.rule.visible()
    segment = example.rule.segment
    assert segment.max() == 3
    assert not seen[segment[:, None] != segment[None, :]].any()
    assert all(a <= b for a, b in itertools.pairwise(segment.tolist()))
