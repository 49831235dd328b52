"""The command lines and the options of the pages are those of the commands."""

import re

import pytest

from blankfill.system.schema import RENAMED
from page_commands import BLOCK, INLINE, ROOT, Line, known_options, lines_of, pages, problems_of

BY_THEIR_OWN_TEST = {"docs/extending.md"}
"""Pages with an objective and a task of their own, whose commands a test runs."""
OF_OTHER_PROGRAMS = {"--max_pred", "--target_mask_prob", "--mask-random", "--rounds", "--seeds", "--packages"}
"""Options of released code and of the programs in bench/."""
NAMES = [page.relative_to(ROOT).as_posix() for page in pages()]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_THEIR_OWN_TEST])
def test_command_lines_are_read_by_their_commands(name: str) -> None:
    assert [
        f"{name}:{line.number}: blankfill {' '.join(line.words)}: {problem}"
        for line in lines_of(text_of(name), name)
        for problem in problems_of(line)
    ] == []


def test_options_in_sentences_exist() -> None:
    known = known_options() | OF_OTHER_PROGRAMS
    used = {
        (name, option)
        for name in NAMES
        if name != "docs/log.md"  # has options of the programs in bench/ as well
        for span in INLINE.findall(BLOCK.sub("", text_of(name)))
        if span.startswith("--")
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", span)
    }
    assert len(used) > 100
    assert {(name, option) for name, option in used if option not in known and not option.endswith(".")} == set()


def test_no_page_has_an_option_by_an_earlier_name() -> None:
    earlier = {name.replace("_", "-") for name in RENAMED}
    used = {(name, option) for name in NAMES for option in re.findall(r"--(?:\w+\.)?([a-z][\w-]*)", text_of(name))}
    now = {option.rpartition(".")[2].removeprefix("--") for option in known_options()}
    assert {(name, option) for name, option in used if option.replace("_", "-") in earlier - now} == set()


PAGE = """\
# A page

`blankfill pretrain [PATH…] --recipe NAME` trains, `blankfill fill` fills,
and `blankfill prepare
--text-field body` is old.

```console
$ OMP_NUM_THREADS=1 blankfill pretrain a.txt --recipe bert-nano \\
    --train.lr 5e-4 --out "runs/my run" | tee log.txt
$ for n in 1 2; do
>   blankfill embed --model $m x.txt --out $n.npy; done
$ eval "$(blankfill completion bash)"   # in ~/.bashrc
printed: blankfill nothing
```

```text
$ blankfill of a picture
```
"""


def test_command_lines_are_found() -> None:
    assert [(line.number, line.words, line.whole) for line in lines_of(PAGE)] == [
        (8, ["pretrain", "a.txt", "--recipe", "bert-nano", "--train.lr", "5e-4", "--out", "runs/my run"], True),
        (11, ["embed", "--model", "$m", "x.txt", "--out", "$n.npy"], True),
        (12, ["completion", "bash"], True),
        (3, ["pretrain", "[PATH…]", "--recipe", "NAME"], False),
        (3, ["fill"], False),
        (4, ["prepare", "--text-field", "body"], False),
    ]


@pytest.mark.parametrize(
    ("words", "whole", "problem"),
    [
        ("prepare a.csv --text-field body --out x", True, "there is no option text_field; did you mean columns?"),
        ("prepare a.csv --text-field body", False, "there is no option text_field; did you mean columns?"),
        ("predikt x", False, "there is no command predikt; did you mean `blankfill predict`?"),
        ("pretrain a.txt --recipe bert-nono --out x", True, "no recipe named bert-nono"),
        ("pretrain a.txt --recipe bert-nano --objective.variant iid", True, "no option objective.variant"),
        ("pretrain a.txt --recipe bert-nano --train.lr fast", True, "train.lr"),
        ("pretrain a.txt --recipe bert-nano --objective.mask-ratio 7", True, "mask_ratio"),
        ("finetune --task sst3 --data glue --from m --out x", True, "there is no task sst3"),
        ("finetune --task rte+sst3 --method text", False, "there is no task sst3"),
        ("finetune --task sst2 --data glue --out x", True, "from is missing"),
        ("show a.txt --recipe $r --objective.wariant iid", True, "there is no option objective.wariant"),
        ("fill --model m --num many x", True, "num"),
    ],
)
def test_mistakes_in_command_lines_are_found(words: str, whole: bool, problem: str) -> None:
    problems = problems_of(Line("page.md", 1, words.split(), whole))
    assert problems
    assert problem in problems[0]


@pytest.mark.parametrize(
    "words",
    [
        "pretrain a.txt --recipe $row --objective.variant iid",
        "pretrain a.txt --from runs/t5 --objective.variant iid --out x",
        "pretrain a.txt --recipe my.yaml --objective.short 0.2 --out x",
        "finetune --task rte+sst2 --data glue --from m --method text --out x",
        "finetune … --method cloze",
        "tokenizer show --tokenizer runs/bert word",
        "predict --help",
        "--version",
    ],
)
def test_command_lines_that_are_right_pass(words: str) -> None:
    assert problems_of(Line("page.md", 1, words.split(), True)) == []


def test_both_languages_of_the_readme_have_the_same_content() -> None:
    english, chinese = text_of("README.md"), text_of("README.zh-CN.md")
    for pattern in (
        r"^#+ ",
        r"^\| `blankfill ([a-z]+)",  # the commands of the table, in their order
        r"^\$ blankfill ([a-z]+)|^\$ make (\w+)",
        r"^```(\w*)$",
    ):
        there, here = (re.findall(pattern, page, re.MULTILINE) for page in (english, chinese))
        assert there == here, pattern
    links = [set(re.findall(r"\]\(([^)]+)\)", page)) - {"README.md", "README.zh-CN.md"} for page in (english, chinese)]
    assert links[0] == links[1]
    options = [set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", page)) for page in (english, chinese)]
    assert options[0] == options[1]
