"""How a model answers: from its folder, its template and the caller; and what an import takes over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blankfill.chatting.options import AS_RELEASED, ChatOptions, end_ids_in, options_of
from blankfill.corpus.tokenizer_chat import chat_files
from blankfill.errors import ConfigError, UserError
from blankfill.generation.sampling import Sampling


def stored(folder: Path, **values: object) -> list[Path]:
    (folder / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
    return [folder / "nowhere", folder]


def test_chatglm_answers_as_released() -> None:
    assert options_of("chatglm") == AS_RELEASED
    sampling = AS_RELEASED.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.95, 50, 0.7)
    assert (AS_RELEASED.max_length, AS_RELEASED.max_new_tokens, AS_RELEASED.process) == (2048, 0, True)


def test_others_answer_as_generate_continues() -> None:
    assert options_of("plain") == ChatOptions() == ChatOptions(512, 0, False, Sampling(temperature=0.8, top_p=0.95))


def test_the_folder_counts_before_the_template_and_the_caller_before_the_folder(tmp_path: Path) -> None:
    folders = stored(
        tmp_path, temperature=0.6, top_k=20, no_repeat_ngram_size=3, max_new_tokens=7, eos_token_id=[5, True, 9]
    )
    options = options_of("chatglm", folders, {"top_k": 4, "seed": 2, "temperature": None, "process": False})
    assert options == ChatOptions(7, 2048, False, Sampling(0.6, 4, 0.7, 1.0, 3, 2))
    assert end_ids_in(folders) == [5, 9]
    assert end_ids_in(stored(tmp_path, eos_token_id=4)) == [4]
    assert end_ids_in([tmp_path / "nowhere"]) == []


def test_a_folder_may_say_that_nothing_is_drawn(tmp_path: Path) -> None:
    options = options_of("plain", stored(tmp_path, do_sample=False, temperature=0.6))
    assert options.sampling.temperature == 0


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no option max_tokens of a chat; there are max_new_tokens"):
        options_of("", given={"max_tokens": 3})
    with pytest.raises(ConfigError, match="max_new_tokens is -1"):
        options_of("", given={"max_new_tokens": -1})
    with pytest.raises(ConfigError, match=r"top_p is 7; it must be above 0"):
        options_of("", stored(tmp_path, top_p=7))
    (tmp_path / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"generation_config\.json.*not JSON"):
        options_of("", [tmp_path])


def test_an_import_takes_the_template_and_the_settings_over(tmp_path: Path) -> None:
    assert chat_files(tmp_path) == {}
    config = {"chat_template": "{{ bos_token }}", "bos_token": {"content": "<s>"}, "model_max_length": 3}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    stored(tmp_path, top_k=2)
    files = chat_files(tmp_path)
    assert files["chat_template.jinja"] == "{{ bos_token }}"
    assert json.loads(files["special_tokens_map.json"]) == {"bos_token": "<s>"}
    assert json.loads(files["generation_config.json"]) == {"top_k": 2}
