"""GLM and ChatGLM-6B for transformers, which has no class for them; `import blankfill.hf` registers these with the Auto
classes.

    import blankfill.hf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    inputs = blankfill.hf.blank_inputs(model, tokenizer, ["The lamp [gMASK]", "A [MASK] on the sea."])
    written = model.generate(**inputs, max_new_tokens=20)

The tokenizer of a ChatGLM-6B puts [gMASK] and <sop> behind a text itself, so that `tokenizer(texts)` makes its rows.
"""

from blankfill.hf.chatglm import ChatGlmConfig, ChatGLMForConditionalGeneration
from blankfill.hf.glm import GlmConfig, GlmForBlankFilling, blank_inputs, positions

__all__ = [
    "ChatGLMForConditionalGeneration", "ChatGlmConfig", "GlmConfig", "GlmForBlankFilling", "blank_inputs", "positions",
]  # fmt: skip
