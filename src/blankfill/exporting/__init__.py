"""Exports of trained models of all kinds: folders for transformers, ONNX and peft, each with a model card.

`model` is the entry; `heads` writes fine-tuned heads for transformers, `onnx_heads` for onnxruntime, `adapter` LoRA for
peft; `cards` collects what a model card says. Not here: pretrained models in other formats (`convert`).
"""
