"""Settings in sentences: named by reference, spelled once, and no flag written by hand."""

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import blankfill
from blankfill.cli.main import COMMANDS, main
from blankfill.errors import ConfigError, Problem, UserError, in_flags, in_keys, setting, template_of, within
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.run import finetune
from blankfill.system.console import say, settings_as_flags, worded
from blankfill.system.reading import UnreadableError
from blankfill.training.faults import NonFiniteError

SOURCE = Path(blankfill.__file__).parent
FLAG = re.compile(r"(?<![\w…-])--[a-z…]")
COMMAND_LINE = re.compile(r"blankfill (?:[a-z]+|COMMAND|…|--[a-z]+)(?= |$)[^`;]*")
"""A whole command line in a sentence, which is quoted as it is typed."""
HELP = {"cli/help.py", "cli/main.py"}
"""The text of the help, which is about the command line and nothing else."""
NOT_OURS = {
    ("system/environment.py", "--porcelain"), ("system/environment.py", "--untracked-files=no"),  # git's
    ("corpus/compression.py", "zstd -d --long=31"), ("report/tuned_sections.py", "--share:"),  # of zstd, of CSS
}  # fmt: skip


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The strings of a file with their lines, without docstrings; `…` is in the place of what an f-string fills in."""
    apart = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            apart.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            apart |= {part for part in node.values if isinstance(part, ast.Constant)}
            parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield node.lineno, "".join(parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in apart:
            yield node.lineno, node.value


def by_hand(place: str, tree: ast.AST) -> list[str]:
    """The strings of a file that name a flag of blankfill and are no command line; of `cli`, also no argument alone."""
    sentences = []
    for line, text in texts(tree):
        rest = COMMAND_LINE.sub("", text)
        argument = place.startswith("cli/") and re.fullmatch(r"--[a-z.-]+=?", text)
        ours = not any(file == place and phrase in text for file, phrase in NOT_OURS)
        if FLAG.search(rest) and ours and not argument:
            sentences.append(f"{place}, line {line}: {text!r}")
    return sentences


def test_no_sentence_writes_a_flag_by_hand() -> None:
    sentences: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if place not in HELP | {"errors.py"}:
            sentences += by_hand(place, ast.parse(path.read_text(encoding="utf-8")))
    assert sentences == [], "write setting(…) of errors.py"


RUN = re.compile(rf"blankfill (?:{'|'.join(COMMANDS)}|COMMAND) [^`;\n]*")


def unquoted(tree: ast.AST) -> list[str]:
    """The f-strings with a command line in which a value is filled in that is not quoted for a shell."""
    wrong = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        text, values = "", {}
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                values[chr(0xE100 + len(values))] = part.value
                text += chr(0xE100 + len(values) - 1)
            else:
                text += str(part.value)  # type: ignore[attr-defined]
        for match in RUN.finditer(text):
            for mark in re.findall("[\ue100-\ue1ff]", match[0]):
                call = ast.unparse(values[mark])
                wrong += [] if re.match(r"(console\.)?quoted\(", call) else [f"line {node.lineno}: {call}"]
    return wrong


def test_commands_to_copy_are_quoted() -> None:
    wrong = {
        path.relative_to(SOURCE).as_posix(): lines
        for path in sorted(SOURCE.rglob("*.py"))
        if (lines := unquoted(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert not wrong, "write quoted(…) of system.console"
    assert unquoted(ast.parse('f"resume with: blankfill pretrain --resume {out}"')) == ["line 1: out"]
    assert not unquoted(ast.parse('f"blankfill fill --model {quoted(out)}; {more}"'))


RECIPES = ("objectives/", "families/", "config/", "model/config.py")
"""Where sentences are about a recipe: `config.recipe.in_settings` makes references of the keys in them."""
CODE = ("convert/card_code.py",)
"""Where strings are code, in which `model.generate` is a call."""
KEY = re.compile(r"(?<![\w./-])(?:corpus|objective|model|train|distil|prompts)\.[a-z][a-z0-9_]*\b")


def keys_by_hand(place: str, tree: ast.AST) -> list[str]:
    """The strings of a file that name an option of a recipe among other words, and no file."""
    keys = [(line, text) for line, text in texts(tree) if " " in text and KEY.search(text)]
    return [f"{place}, line {line}: {text!r}" for line, text in keys if ".safetensors" not in text]


def test_no_sentence_writes_a_key_by_hand() -> None:
    """Else the command line would name some settings of a sentence by flags, and others by keys."""
    sentences: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if not place.startswith(RECIPES + CODE):
            sentences += keys_by_hand(place, ast.parse(path.read_text(encoding="utf-8")))
    assert sentences == [], "write setting(…) of errors.py"
    assert len(keys_by_hand("made.py", ast.parse('say(f"lower train.lr {x}")\nf("train.lr")'))) == 1


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ('raise UserError("leave out --max-length")', 1),
        ('raise UserError(f"{name}: give --{other}")', 1),
        ('REMEDY = "give another "\n"--out"\nx = ("give "\n     "--out")', 1),
        ('say(f"{n} are cut; see --max-length {n}")', 1),
        ('raise UserError(f"resume with: blankfill pretrain --resume {out}")', 0),
        ('raise UserError(f"make one with `blankfill prepare --out {out}` or give --out")', 1),
        ('def f():\n    """What --force does."""', 0),
        ('x = f"a -- b, {1}--{2}"', 0),
    ],
)
def test_flags_written_by_hand_are_found(code: str, count: int) -> None:
    assert len(by_hand("made.py", ast.parse(code))) == count


@pytest.mark.parametrize(
    ("reference", "key", "flag"),
    [
        (setting("train.max_grad_norm"), "train.max_grad_norm", "--train.max-grad-norm"),
        (setting("method", "cloze"), "method=cloze", "--method cloze"),
        (setting("freeze", -1), "freeze=-1", "--freeze -1"),
        (setting("force", True), "force=True", "--force"),
        (setting("corpus.vocab_exact", False), "corpus.vocab_exact=False", "--corpus.no-vocab-exact"),
        (setting("model", flag="from"), "model", "--from"),
        (setting("resume", True, "resume a_b"), "resume=True", "--resume a_b"),
        (setting("text", "a\ue001b"), "text=ab", "--text ab"),
    ],
)
def test_a_setting_has_two_spellings(reference: str, key: str, flag: str) -> None:
    sentence = Problem(f"give {reference}, or leave it out")
    assert sentence == in_keys(sentence) == f"give {key}, or leave it out"
    assert in_flags(sentence) == f"give {flag}, or leave it out"
    error = UserError(f"a: {UserError(sentence).template}")
    assert str(error) == f"a: give {key}, or leave it out" and in_flags(error.sentence).startswith(f"a: give {flag},")


@pytest.mark.parametrize(
    "error",
    [
        UserError("lower " + setting("train.lr", 'a"b')), ConfigError([f"lower {setting('train.lr')}", "plain"]),
        UnreadableError(f"see {setting('train.lr')}", missing=True), NonFiniteError(7, f"lower {setting('train.lr')}"),
        UserError("x" * 5000 + setting("train.lr")),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_error_of_another_process_keeps_its_settings(error: UserError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and vars(again) == vars(error) and str(again) == str(error)
    assert "--train.lr" in in_flags(again.sentence)


def test_only_settings_of_a_section_move_into_it() -> None:
    sentence = Problem(f"give {setting('vocab_size', 30)} or {setting('out')}")
    moved = within("corpus", sentence, ["vocab_size"])
    assert moved == "give corpus.vocab_size=30 or out" and in_flags(moved) == "give --corpus.vocab-size 30 or --out"
    assert template_of("plain") == within("corpus", "plain", ["plain"]) == "plain"


def test_notices_are_spelled_for_who_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"see {setting('max_length')}")
    with settings_as_flags():
        say(f"see {setting('max_length')}")
        assert worded(Problem(setting("max_length"))) == "--max-length"
    assert worded(setting("max_length")) == "max_length"
    assert capsys.readouterr().err == "see max_length\nsee --max-length\n"


def test_one_mistake_is_named_in_the_spelling_of_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is in use, for Python and for the command line; a number, in YAML and on the command line."""
    out, text = tmp_path / "run", tmp_path / "text.txt"
    out.mkdir()
    (out / "recipe.yaml").write_text("name: a\n", encoding="utf-8")
    text.write_text("a b\n", encoding="utf-8")
    recipe = blankfill.load_recipe("bert-nano")
    with pytest.raises(UserError, match=r"resume it with resume=True, or give another out$"):
        blankfill.pretrain([text], recipe, out)
    assert main(["pretrain", str(text), "--recipe", "bert-nano", "--out", str(out)]) == 2
    assert f"resume it with --resume {out}, or give another --out" in capsys.readouterr().err

    own = tmp_path / "own.yaml"
    own.write_text("base: bert-nano\ntrain:\n  batch_size: 0\n", encoding="utf-8")
    assert main(["pretrain", str(text), "--recipe", str(own), "--out", str(tmp_path / "new")]) == 2
    assert f"blankfill: {own}: train.batch_size is 0" in capsys.readouterr().err
    assert main(["pretrain", str(text), "--recipe", "bert-nano", "--train.batch-size", "0"]) == 2
    assert "blankfill: --train.batch-size is 0" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^train\.batch_size is 0"):
        blankfill.load_recipe("bert-nano", {"train.batch_size": 0})


def test_a_python_caller_reads_the_names_of_parameters(tmp_path: Path) -> None:
    config = FinetuneConfig("sst2", tmp_path, tmp_path, blankfill.FinetuneOptions(class_weights="balanced"))
    with pytest.raises(UserError) as caught:
        finetune(config, tmp_path / "out")
    assert "--" not in str(caught.value)
    with pytest.raises(UserError, match="method=cloze pattern=all, or leave it out"):
        finetune(FinetuneConfig("sst2", tmp_path, tmp_path, blankfill.FinetuneOptions(distil="x.tsv")), tmp_path / "o")
