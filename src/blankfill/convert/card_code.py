"""Examples of code for model cards: how a folder is opened in transformers, peft and onnxruntime.

`tests/exporting/test_cards.py` runs them as they are written.
"""

from __future__ import annotations

import json

from blankfill.convert.card import Target
from blankfill.families.registry import own_classes

PIPELINES = ("fill-mask", "text-classification", "token-classification", "text-generation", "feature-extraction")
"""The pipelines of transformers that an example uses; other tasks need a few lines more."""


def python(lines: str) -> str:
    """Return lines as a block of Python in Markdown."""
    return f"```python\n{lines.strip()}\n```"


def usage(target: Target, folder: str, tag: str, auto_class: str, example: str, second: str = "") -> str:
    """Return an example for a folder.

    tag: `pipeline_tag`. auto_class: the class of transformers that opens the folder. example: a text; second: the
    second of a pair, for tasks whose items are pairs.
    """
    folder = json.dumps(folder, ensure_ascii=False)[1:-1]  # inside quotation marks
    if target.program == "onnxruntime":
        return python(onnx_lines(folder, target.name, example, second))
    if target.program == "llama.cpp":
        return python(llama_lines(folder, target.name.startswith("gpt2"), example))
    if target.program == "peft":
        return python(adapter_lines(folder, target.base, auto_class, example, second))
    return python(transformers_lines(folder, tag, auto_class, example, second))


def transformers_lines(folder: str, tag: str, auto_class: str, example: str, second: str = "") -> str:
    """Return an example for transformers."""
    if auto_class in own_classes():
        rows = f"blankfill.hf.blank_inputs(model, tokenizer, [{example + ' [MASK]'!r}])"
        if auto_class != "GlmForBlankFilling":  # its tokenizer makes the rows
            rows = f'tokenizer([{example!r}], return_tensors="pt")'
        return f'''
import blankfill.hf
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
inputs = {rows}
print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True))
'''
    if tag in PIPELINES and auto_class not in ("AutoModelForMultipleChoice", "AutoModelForQuestionAnswering"):
        given = f'{{"text": {example!r}, "text_pair": {second!r}}}' if second else repr(example)
        return f'''
from transformers import pipeline

model = pipeline("{tag}", model="{folder}")
print(model({given}))
'''
    opening = f'''
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = {auto_class}.from_pretrained("{folder}")
'''
    return opening + reading_lines(auto_class, example, second)


def reading_lines(auto_class: str, example: str, second: str) -> str:
    """Return the lines that read an example with a model and a tokenizer."""
    if auto_class == "AutoModelForMultipleChoice":
        return f"""
choices = ["the first choice", "the second choice"]
inputs = tokenizer([{example!r}] * len(choices), choices, padding=True, return_tensors="pt")
scores = model(**{{name: tensor[None] for name, tensor in inputs.items()}}).logits[0]
print(choices[int(scores.argmax())])
"""
    if auto_class == "AutoModelForQuestionAnswering":
        return f"""
inputs = tokenizer({example!r}, {second!r}, return_tensors="pt")
scores = model(**inputs)
first, last = int(scores.start_logits.argmax()), int(scores.end_logits.argmax())
print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))
"""
    if auto_class == "AutoModelForSeq2SeqLM":
        return f"""
inputs = tokenizer({example!r}, return_tensors="pt")
written = model.generate(inputs["input_ids"], max_new_tokens=40)
print(tokenizer.decode(written[0], skip_special_tokens=True))
"""
    texts = f"{example!r}, {second!r}" if second else repr(example)
    return f"""
inputs = tokenizer({texts}, return_tensors="pt")
print(model(**inputs).logits)
"""


def llama_lines(folder: str, writes: bool, example: str) -> str:
    """Return an example for llama-cpp-python."""
    opening = f"""
from llama_cpp import Llama

model = Llama("{folder}/model.gguf"{"" if writes else ", embedding=True"}, verbose=False)
"""
    if writes:
        return opening + f"""print(model({example!r}, max_tokens=20)["choices"][0]["text"])\n"""
    return opening + f"""print(model.embed({example!r}, normalize=True))\n"""


def adapter_lines(folder: str, base: str, auto_class: str, example: str, second: str) -> str:
    """Return an example for peft."""
    return f'''
from peft import PeftModel
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}/{base}")
base = {auto_class}.from_pretrained("{folder}/{base}")
model = PeftModel.from_pretrained(base, "{folder}").eval()
''' + reading_lines(auto_class, example, second)


def onnx_lines(folder: str, outputs: str, example: str, second: str = "") -> str:
    """Return an example for onnxruntime and the tokenizers library."""
    texts = f"{example!r}, {second!r}" if second else repr(example)
    return f'''
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("{folder}/model.onnx")
row = Tokenizer.from_file("{folder}/tokenizer.json").encode({texts})
given = {{"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}}
wanted = {{entry.name: len(entry.shape) for entry in session.get_inputs()}}
inputs = {{name: np.array(given[name])[(None,) * (axes - 1)] for name, axes in wanted.items()}}
for entry, scores in zip(session.get_outputs(), session.run(None, inputs)):
    print(entry.name, scores.shape)
print(session.get_modelmeta().custom_metadata_map)
'''
