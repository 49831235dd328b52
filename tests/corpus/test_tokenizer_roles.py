"""Special tokens that a tokenizer's author names: which are honoured, and that they stay."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_formats import byte_bpe, wordpiece
from blankfill.errors import UserError


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("form", [str, lambda name: {"content": name, "lstrip": False}])
def test_a_mask_of_ones_own_is_honoured(tmp_path: Path, file: str, form: Callable[[str], object]) -> None:
    """The author's mask counts before ours, other roles' tokens where ours are absent; so it stays when the tokenizer
    is saved, grown and sent to another process."""
    vocab = {name: k for k, name in enumerate(["[UNK]", "[MASK]", "<blank>", "<pad>", "{begin}", "cat", "##s"])}
    wordpiece(vocab, lowercase=True).save(str(tmp_path / "tokenizer.json"))
    names = {"mask_token": "<blank>", "cls_token": "{begin}", "pad_token": "cat", "sep_token": "{missing}"}
    (tmp_path / file).write_text(json.dumps({name: form(token) for name, token in names.items()}), encoding="utf-8")
    read = Tokenizer.load(tmp_path)
    roles = {"unk": 0, "mask": 2, "pad": 3, "cls": 4, "eos": 3}
    read.save(tmp_path / "again")
    again, alone = Tokenizer.load(tmp_path / "again"), Tokenizer.load(tmp_path / "tokenizer.json")
    for tokenizer in (read, again, alone, pickle.loads(pickle.dumps(read)), read.with_words(["dog"])):
        vocabulary = tokenizer.vocabulary()
        assert {role: vocabulary.roles[role] for role in roles} == roles
        assert {1, 2, 3, 4} <= vocabulary.special and 5 not in vocabulary.special
        assert tokenizer.encode("a <blank>")[-1] == 2 and 2 not in tokenizer.encode_plain(["a <blank>"])[0]
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["mask_token"] == "<blank>"
    (tmp_path / file).unlink()
    assert Tokenizer.load(tmp_path).vocabulary().roles["mask"] == 1


def test_names_that_say_nothing_new_are_passed_over(tmp_path: Path) -> None:
    """GPT-2 names its one special token for every role; XLNet ends a sentence with another token than a text."""
    vocab = {name: k for k, name in enumerate(["<|endoftext|>", "Ġ", "a", "</s>", "<eod>"])}
    byte_bpe(vocab, [], lowercase=False).save(str(tmp_path / "tokenizer.json"))
    names = {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "eos_token": "</s>", "mask_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    assert Tokenizer.load(tmp_path).vocabulary().roles == {"sep": 3, "eos": 0}


@pytest.mark.parametrize("where", ["vocab", "added"])
def test_an_id_of_two_tokens_is_refused(tmp_path: Path, where: str) -> None:
    wordpiece({"[UNK]": 0, "cat": 1, "dog": 2}, lowercase=True).save(str(tmp_path / "tokenizer.json"))
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    if where == "vocab":
        spec["model"]["vocab"]["dog"] = 1
    else:
        spec["added_tokens"].append(
            {
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
                "special": True,
                "id": 1,
                "content": "[SEP]",
            }
        )
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError, match=r"gives 'cat' and '(dog|\[SEP\])' the id 1: give each token an id"):
        Tokenizer.load(tmp_path)
