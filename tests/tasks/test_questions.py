"""Questions: the real files by their counts, windows and answers against a slow search, metrics by hand."""

import difflib
import itertools
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.datasets.squad import answers_text, read_answers, read_null_odds, read_questions
from blankfill.tasks.heads.windows import Window, WindowOptions, all_windows, best_spans, n_best_spans
from blankfill.tasks.items import Answer, QuestionItem
from blankfill.tasks.metrics.questions import answer_metrics, best_threshold, chinese_scores, normal, scores
from conftest import DATA

CONTEXT = "The old tower of Pisa leans by four degrees, and has leant since 1178 or so."


def words_tokenizer(*texts: str) -> Tokenizer:
    """One token for each word and mark of these texts."""
    pre = tokenizers.pre_tokenizers.BertPreTokenizer()
    words = dict.fromkeys(word for text in texts for word, _ in pre.pre_tokenize_str(text))
    vocabulary = {word: k for k, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre
    return Tokenizer(tokenizer)


def question(answer: str = "Pisa", **fields: Any) -> QuestionItem:
    answers = (Answer(answer, CONTEXT.index(answer)),) if answer else ()
    return QuestionItem("q", "Where does it lean?", CONTEXT, answers, **({"impossible": not answer} | fields))


def squad_file(path: Path, *qas: dict[str, Any], context: str = CONTEXT) -> Path:
    document = {"version": "x", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(qas)}]}]}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
@pytest.mark.parametrize(
    ("task", "folder", "split", "questions", "impossible", "misplaced"),
    [
        ("squad", "squad_v1.1", "dev", 10570, 0, 0),
        ("squad2", "squad_v2.0_cs224n", "dev", 6078, 3168, 0),
        ("xquad", ".", "en", 1190, 0, 0),
        ("cmrc2018", "cmrc2018", "dev", 3219, 0, 193),
        ("cmrc2018", ".", "trial", 1002, 0, 0),
        ("drcd", ".", "dev", 3524, 0, 0),
    ],
)
def test_real_files(task: str, folder: str, split: str, questions: int, impossible: int, misplaced: int) -> None:
    read = TASKS[task].read(DATA / folder, split)
    items = read.questions()
    assert len(items) == questions
    assert sum(bool(item.impossible) for item in items) == impossible
    assert sum(answer.start is None for item in items for answer in item.answers) == misplaced
    assert bool(read.problems) == (task == "cmrc2018")
    if misplaced:
        assert f"{misplaced} of " in read.problems[1]
    right = {item.id: item.answers[0].text if item.answers else "" for item in items}
    metrics = answer_metrics(["exact", "f1"], items, right, TASKS[task].by_characters)
    assert metrics == {"exact": 1.0, "f1": 1.0}
    nothing = answer_metrics(["exact"], items, dict.fromkeys(right, ""))["exact"]
    assert nothing == pytest.approx(impossible / questions, abs=1e-3)


def test_a_zipped_file_and_a_misplaced_answer(tmp_path: Path) -> None:
    there = {"id": "a", "question": " Where? ", "answers": [{"text": "Pisa", "answer_start": 17}]}
    wrong = {"id": "b", "question": "?", "answers": [{"text": "Pisa", "answer_start": 18}]}
    absent = {"id": "e", "question": "?", "answers": [{"text": "Rome", "answer_start": 18}]}
    none = {"id": "c", "question": "?", "answers": [], "is_impossible": True}
    test = {"id": "d", "question": "?"}
    file = squad_file(tmp_path / "plain.json", there, wrong, absent, none, test)
    with zipfile.ZipFile(tmp_path / "dev-v2.0.json.zip", "w") as archive:
        archive.write(file, "dev-v2.0.json")
    split = TASKS["squad2"].read(tmp_path, "dev")
    assert split.questions() == [
        QuestionItem("a", "Where?", CONTEXT, (Answer("Pisa", 17),), False, "T"),
        QuestionItem("b", "?", CONTEXT, (Answer("Pisa", 17),), False, "T"),
        QuestionItem("e", "?", CONTEXT, (Answer("Rome", None),), False, "T"),
        QuestionItem("c", "?", CONTEXT, (), True, "T"),
        QuestionItem("d", "?", CONTEXT, (), None, "T"),
    ]
    assert "1 of 3 answers do not lie at their answer_start but occur once" in split.problems[0]
    assert "1 of 3 answers do not lie at their answer_start, such as those of e (Rome)" in split.problems[1]
    windows = list(all_windows(split.questions(), words_tokenizer(CONTEXT)))
    assert [(window.start, window.end) for window in windows] == [(4, 4), (4, 4), (None, None), (-1, -1), (None, None)]
    with pytest.raises(UserError, match="does not have the answers of 1 questions, such as d"):
        answer_metrics(["f1"], split.questions(), {})


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text, message in [
        ("{", "x.json: not JSON"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\]\.paragraphs\[0\] has no 'context'"),
        ('{"data": []}', "has no questions"),
        ("[]", "has no 'data'"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1}]}]}]}', r"qas\[0\] has no 'question'"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_questions(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "no questions")
    with pytest.raises(UserError, match=r"holds 0 \.json files where one is wanted"):
        read_questions(file)
    file.write_bytes(file.read_bytes().replace(b"no questions", b"nonquestions").replace(b"notes.txt", b"no__.json"))
    with pytest.raises(UserError, match="is not a readable zip archive"):
        read_questions(file)


def test_windows_overlap_and_answers_are_found() -> None:
    """18 tokens in windows of 8, each 3 further; the answer's tokens spell the answer in each window that has it."""
    item = question("four degrees")
    tokenizer = words_tokenizer(CONTEXT, item.question)
    options = WindowOptions(length=16, stride=3, max_query_length=5, extra=3)
    windows = list(all_windows([item], tokenizer, options))
    ids = tokenizer.encode_places(CONTEXT)[0]
    assert len(ids) == 18
    assert [window.context.tolist() for window in windows] == [ids[k : k + 8].tolist() for k in (0, 3, 6, 9, 12)]
    assert [(window.start, window.end) for window in windows] == [(-1, -1), (4, 5), (1, 2), (-1, -1), (-1, -1)]
    for window in windows:
        if window.start is not None and window.end is not None and window.start >= 0:
            text = CONTEXT[window.places[window.start, 0] : window.places[window.end, 1]]
            assert text == "four degrees"
    # Every token is central once, where the lesser of its sides is greatest; then the longer, then the earlier window.
    at = [np.flatnonzero(window.central) + 3 * k for k, window in enumerate(windows)]
    assert sorted(np.concatenate(at).tolist()) == list(range(18))
    for k, tokens in enumerate(at):
        for token in tokens.tolist():
            sides = [min(token - start, end - token) for start, end in ((0, 7), (3, 10), (6, 13), (9, 16), (12, 17))]
            assert sides.index(max(sides)) == k


def test_a_long_question_is_cut_and_no_room_refused() -> None:
    item = question()
    tokenizer = words_tokenizer(CONTEXT, item.question)
    window = next(all_windows([item], tokenizer, WindowOptions(max_query_length=2)))
    assert window.question.tolist() == tokenizer.encode("Where does")
    with pytest.raises(UserError, match="leave no room"):
        next(all_windows([item], tokenizer, WindowOptions(length=67)))
    with pytest.raises(UserError, match="question e has no tokens"):
        next(all_windows([QuestionItem("e", "?", " ")], tokenizer))


def searched(item: QuestionItem, windows: list[Window], start: Any, end: Any, longest: int) -> list[tuple[str, float]]:
    """All allowed spans by three loops, best first, each text once."""
    spans: dict[str, float] = {}
    for w, window in enumerate(windows):
        for i, j in itertools.product(range(len(window.context)), repeat=2):
            if i <= j < i + longest and window.central[i]:
                text = item.context[window.places[i, 0] : window.places[j, 1]]
                spans[text] = max(spans.get(text, -np.inf), float(start[w][i] + end[w][j]))
    return sorted(spans.items(), key=lambda pair: -pair[1])


@pytest.mark.parametrize("longest", [1, 4, 30])
def test_the_best_spans_are_those_of_a_slow_search(longest: int) -> None:
    item = question()
    options = WindowOptions(length=16, stride=3, max_query_length=5)
    windows = list(all_windows([item], words_tokenizer(CONTEXT, item.question), options))
    random = np.random.default_rng(longest)
    start = [random.normal(size=len(window.context)) for window in windows]
    end = [random.normal(size=len(window.context)) for window in windows]
    best = best_spans(item, windows, start, end, [0.5, -0.25, 3.0, 1.0, 2.0], best=6, longest=longest)
    slow = searched(item, windows, start, end, longest)[:6]
    assert list(best.texts) == [text for text, _ in slow]
    assert best.scores == pytest.approx([score for _, score in slow])
    assert best.null == -0.25
    assert best.null_odds == pytest.approx(-0.25 - slow[0][1])
    assert best.answer() == best.answer(best.null_odds + 0.1) == slow[0][0]
    assert best.answer(best.null_odds - 0.1) == ""


def test_scores_that_are_not_numbers_are_refused() -> None:
    item = question()
    windows = list(all_windows([item], words_tokenizer(CONTEXT)))
    start = np.zeros(18)
    with pytest.raises(UserError, match="question q are not numbers"):
        best_spans(item, windows, [start], [start * np.nan], [0.0])
    with pytest.raises(UserError, match="question q are not numbers"):
        best_spans(item, windows, [start], [start], [np.nan])


def test_english_scores_by_hand() -> None:
    """Articles, case and marks do not count; 2 of 3 words and 2 of 4 are shared: F1 = 4/7."""
    assert normal("The  Theatre, a “place”!") == "theatre “place”"
    assert scores("The U.S.A.", "usa") == (1.0, 1.0)
    assert scores("tower of Pisa", "leaning tower in Pisa") == (0.0, pytest.approx(4 / 7))
    assert scores("Paris", "Rome") == (0.0, 0.0)
    assert scores("the", "", "2.0") == scores("", "", "2.0") == (1.0, 1.0)
    assert scores("the", "") == scores("", "") == (1.0, 0.0)
    assert scores("", "Rome") == (0.0, 0.0)
    # A word counts as often as both have it.
    assert scores("no no no", "no no") == (0.0, pytest.approx(4 / 5))


def test_chinese_scores_by_hand() -> None:
    """One segment for each character, one for each Latin word; the common run counts, not the common set."""
    assert chinese_scores("《战国无双3》", "战国无双3") == (1.0, 1.0)
    # 北京大学 / 大学北京: the longest common run is 2 of 4 and 4.
    assert chinese_scores("北京大学", "大学北京") == (0.0, 0.5)
    # Marks go first, so ω-force is one word: 光 荣 和 ωforce against ωforce.
    assert chinese_scores("光荣和ω-force", "ω-Force") == (0.0, pytest.approx(2 * 1 / (4 + 1)))
    assert chinese_scores("1990年", "1990年3月") == (0.0, pytest.approx(2 * 2 / (2 + 4)))
    assert chinese_scores("上海", "北京") == (0.0, 0.0)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
def test_chinese_scores_are_nearly_those_with_nltks_words() -> None:
    """CMRC's rule with the tokenizer of its script, for two answers to one question: as good as never another F1."""
    words = pytest.importorskip("nltk.tokenize").NLTKWordTokenizer()
    marks = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")

    def segments(text: str) -> list[str]:
        text_left = "".join(character for character in text.lower().strip() if character not in marks)
        latin = re.split("([\u4e00-\u9fa5])", text_left)
        return [word for part in latin for word in words.tokenize(part)]

    def f1(first: str, second: str) -> float:
        ours, theirs = segments(first), segments(second)
        match = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match()
        return 2 * match.size / (len(ours) + len(theirs))

    answers = [item.answers for item in TASKS["cmrc2018"].read(DATA, "dev").questions()]
    pairs = [(first.text, last.text) for first, *_, last in answers if first.text != last.text]
    other = [pair for pair in pairs if chinese_scores(*pair)[1] != pytest.approx(f1(*pair))]
    assert len(pairs) > 500
    assert len(other) < 0.005 * len(pairs)


def test_answers_of_nothing_but_articles_count_as_in_each_script() -> None:
    """Golds "The cat" and "the", no prediction: 1.1's script finds the second one, with no word shared; 2.0's does not
    look at it."""
    item = QuestionItem("q", "?", "c", (Answer("The cat", 0), Answer("the", 0)), False)
    only = QuestionItem("r", "?", "c", (Answer("an", 0),), False)
    none = QuestionItem("s", "?", "c", (), True)
    predicted = {"q": "", "r": "the", "s": "a"}
    names = TASKS["squad"].metrics
    assert answer_metrics(names, [item], predicted) == {"exact": 1.0, "f1": 0.0}
    assert answer_metrics(names, [item, only], predicted) == {"exact": 1.0, "f1": 0.0}
    assert answer_metrics(TASKS["squad2"].metrics[:2], [item, only, none], predicted) == {
        "exact": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)
    }  # fmt: skip
    metrics = answer_metrics(TASKS["squad2"].metrics, [item, only], predicted)
    assert (metrics["exact"], metrics["f1"]) == (0.5, 0.5)
    assert answer_metrics(names, [only], {"r": ""}) == {"exact": 1.0, "f1": 0.0}
    cat = {"q": "cat"}
    assert answer_metrics(names, [item], cat) == {"exact": 1.0, "f1": 1.0}


def test_metrics_by_kind_of_question_and_the_best_threshold() -> None:
    """Two questions with an answer (one right, one half right), two without (one left empty)."""
    has = [QuestionItem(id, "?", "c", (Answer("red fox", 0), Answer("the fox", 0)), False) for id in "ab"]
    none = [QuestionItem(id, "?", "c", (), True) for id in "cd"]
    predicted = {"a": "a red fox", "b": "red cat", "c": "", "d": "red"}
    names = TASKS["squad2"].metrics
    metrics = answer_metrics(names, [*has, *none], predicted)
    assert metrics == {
        "exact": 0.5, "f1": pytest.approx((1 + 0.5 + 1 + 0) / 4), "has-answer-exact": 0.5, "has-answer-f1": 0.75,
        "no-answer-exact": 0.5, "no-answer-f1": 0.5,
    }  # fmt: skip
    # In rising odds: a (+1), d (answered, -1), b (+0.5): best after a alone, with both d and c right: 3 of 4.
    odds = {"a": -3.0, "d": -1.0, "b": 0.5, "c": 2.0}
    assert best_threshold([*has, *none], predicted, odds) == (0.75, -3.0)
    # Answering none is best here, and the threshold lets none pass.
    assert best_threshold(none, {"c": "blue", "d": "red"}, odds) == (1.0, -2.0)
    with pytest.raises(UserError, match="1 questions have no odds, such as b"):
        best_threshold(has, predicted, {"a": 0.0})
    with pytest.raises(UserError, match="2 of 4 questions have no predicted answer, such as c, d"):
        answer_metrics(["f1"], [*has, *none], {"a": "", "b": ""})


def test_files_of_answers(tmp_path: Path) -> None:
    answers = {"a": "比萨", "b": ""}
    (tmp_path / "predictions.json").write_text(answers_text(answers), encoding="utf-8")
    assert read_answers(tmp_path / "predictions.json") == answers
    (tmp_path / "odds.json").write_text('{"a": 1, "b": -2.5}', encoding="utf-8")
    assert read_null_odds(tmp_path / "odds.json") == {"a": 1.0, "b": -2.5}
    with pytest.raises(UserError, match="not a file of predicted answers"):
        read_answers(tmp_path / "odds.json")
    with pytest.raises(UserError, match="not a file of odds"):
        read_null_odds(tmp_path / "predictions.json")


def run_qa(
    features: list[dict[str, Any]], context: str, n_best_size: int = 20, max_answer_length: int = 30
) -> list[tuple[str, float]]:
    """The search of transformers' example for questions, written from its description: for each feature the n best
    start and end logits of all its tokens, without those that are not of the context (whose offsets are None)."""
    pairs = []
    for feature in features:
        start_indexes = np.argsort(feature["start_logits"])[-1 : -n_best_size - 1 : -1].tolist()
        end_indexes = np.argsort(feature["end_logits"])[-1 : -n_best_size - 1 : -1].tolist()
        for start, end in itertools.product(start_indexes, end_indexes):
            offsets = feature["offset_mapping"]
            if offsets[start] is None or offsets[end] is None or end < start or end - start + 1 > max_answer_length:
                continue
            text = context[offsets[start][0] : offsets[end][1]]
            pairs.append((text, feature["start_logits"][start] + feature["end_logits"][end]))
    return sorted(pairs, key=lambda pair: -pair[1])[:n_best_size]


@pytest.mark.parametrize("seed", range(8))
def test_answers_among_all_columns_are_those_of_transformers(seed: int) -> None:
    """Two windows of 60 tokens with a question of 12: its columns take places among the 20 best."""
    rng = np.random.default_rng(seed)
    words = [f"w{k}" for k in range(100)]
    context = " ".join(words)
    item = QuestionItem("q", "?", context)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    spots = np.stack([ends - [len(word) for word in words], ends], 1).astype(np.int32)
    windows, scores, features = [], [], []
    for begin in (0, 40):
        own = spots[begin : begin + 60]
        window = Window(0, np.zeros(12, np.int32), np.zeros(60, np.int32), own, np.ones(60, np.bool_), -1, -1)
        logits = rng.normal(size=(1 + 12 + 1 + 60 + 1, 2))  # [CLS] question [SEP] context [SEP]
        logits[:13] += 1.5 * (seed % 3)
        columns = [0, *range(14, 74), *range(1, 14), 74]
        windows.append(window)
        scores.append(logits[columns])
        offsets = [None] * 14 + [tuple(pair) for pair in own.tolist()] + [None]
        features.append({"start_logits": logits[:, 0], "end_logits": logits[:, 1], "offset_mapping": offsets})
    spans = n_best_spans(item, windows, scores)
    theirs: dict[str, float] = {}
    for text, value in run_qa(features, context):
        theirs.setdefault(text, value)
    assert list(spans.texts) == list(theirs) and spans.scores == pytest.approx(list(theirs.values()))
    assert spans.null == pytest.approx(min(float(of[0].sum()) for of in scores))
    ours = best_spans(item, windows, [of[1:61, 0] for of in scores], [of[1:61, 1] for of in scores], [0.0, 0.0])
    assert ours.scores[0] >= spans.scores[0]  # every span of the context is a candidate there


def test_no_span_among_the_best_columns_is_an_empty_answer() -> None:
    item = QuestionItem("q", "?", "a b")
    places = np.array([[0, 1], [2, 3]], np.int32)
    window = Window(0, np.zeros(30, np.int32), np.zeros(2, np.int32), places, np.ones(2, np.bool_), -1, -1)
    scores = np.zeros((33, 2))
    scores[3:] = 5.0
    assert n_best_spans(item, [window], [scores]).texts == ("",)
    scores[1, 0] = np.nan
    with pytest.raises(UserError, match="diverged"):
        n_best_spans(item, [window], [scores])
