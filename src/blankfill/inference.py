"""The library interface of trained models: `load(path)`, then `fill`, `generate`, `chat`, `embed` or `predict`.

One loader opens any folder with a model; the commands use it too. Several threads may use a `Model` at once: it is
never put into training mode, its weights never move after `load`, and parts made on first use are made once.

Not here: filling (`generation.fill`), generation (`generation.write`), conversations (`chatting`), embedding
(`embedding`) and predictions of tasks (`finetuning.predictor`). A server that batches the rows of many users uses
`generation.scheduler` itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from blankfill.corpus.unknown import counting
from blankfill.errors import UserError

if TYPE_CHECKING:
    import torch

    from blankfill.adapt.folder import AdapterFolder
    from blankfill.chatting.engine import Chat, Reply
    from blankfill.chatting.messages import Message
    from blankfill.chatting.templates import ChatTemplate
    from blankfill.checkpoint.dtypes import WeightType
    from blankfill.checkpoint.load import Loaded
    from blankfill.embedding.embed import Embedder, Float32, Pooling
    from blankfill.finetuning.predictor import AnyPredictor, Predictor
    from blankfill.finetuning.rows import PythonRow
    from blankfill.generation.blanks import FillResult
    from blankfill.generation.cancel import CancelFlag
    from blankfill.generation.fill import Filler
    from blankfill.generation.write import Generation
    from blankfill.tasks.task import Task

    Messages = str | Sequence[Message | Mapping[str, Any]]
    """A conversation: messages, as objects or as mappings with `role` and `content`, or a single question."""

Part = TypeVar("Part")


class Model:
    """A pretrained model with its tokenizer and objective, or a fine-tuned one with its task."""

    def __init__(self, loaded: Loaded | None = None, predictor: AnyPredictor | None = None) -> None:
        """Give one of the two, or both with the same weights. loaded: a pretrained model; predictor: a fine-tuned
        one."""
        self._loaded, self._predictor = loaded, predictor
        self._adapter: AdapterFolder | None = None
        self._lock = threading.RLock()
        self._parts: dict[Any, Any] = {}

    @property
    def loaded(self) -> Loaded:
        """The pretrained model. Raises UserError for a fine-tuned one."""
        if self._loaded is None:
            raise UserError(
                f"this model was fine-tuned for {self.predictor.task.name}; use predict, or load "
                "the pretrained model that it was made from"
            )
        return self._loaded

    @property
    def predictor(self) -> AnyPredictor:
        """The fine-tuned model. Raises UserError for a pretrained one."""
        if self._predictor is None:
            raise UserError(f"{self.loaded.path}: not a fine-tuned model; train one with `blankfill finetune`")
        return self._predictor

    @property
    def is_pretrained(self) -> bool:
        """Whether `loaded` is there."""
        return self._loaded is not None

    @property
    def is_fine_tuned(self) -> bool:
        """Whether `predictor` is there."""
        return self._predictor is not None

    @property
    def task(self) -> Task:
        """The task for which the model was fine-tuned. Raises UserError for a pretrained model."""
        return self.predictor.task

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels or tags, in the order of the model's outputs; () for a task without labels."""
        return tuple(self.predictor.labels)

    @property
    def filler(self) -> Filler:
        """Return the object that fills blanks with this model. Raises UserError when the model cannot fill."""
        from blankfill.generation.fill import Filler

        return self._once("filler", lambda: Filler(self.loaded))

    def embedder(self, pooling: Pooling = "mean", normalize: bool = True) -> Embedder:
        """Return the object that computes vectors with this model; see `embedding.embed.Embedder` for its errors."""
        from blankfill.embedding.embed import Embedder

        return self._once((pooling, normalize), lambda: Embedder(self.loaded, pooling, normalize))

    def fill(
        self,
        text: str,
        top_k: int = 5,
        lengths: str | None = None,
        length_penalty: float = 0.0,
        cancel: CancelFlag | None = None,
        allow_unknown: bool = False,
    ) -> FillResult:
        """Fill the blanks of a text, written [MASK], ____ or [MASK:3]; see `generation.fill.Filler.fill`.

        allow_unknown: do so although most of the text is unknown to the tokenizer, which is a UserError otherwise.
        """
        with counting("the text", allow=allow_unknown):
            return self.filler.fill(text, top_k, lengths, length_penalty, cancel)

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 100,
        slide: bool = False,
        cancel: CancelFlag | None = None,
        add_bos: bool | None = None,
        allow_unknown: bool = False,
        **sampling: Any,
    ) -> Iterator[str]:
        """Continue a text, and yield pieces of it as they are finished.

        slide: continue past the position table by dropping the older half (GPT). cancel: a flag, such as a
        `threading.Event`, that ends the text once it is set. add_bos: whether GPT reads the begin token before the
        prompt; None: as in its training. allow_unknown: as for `fill`. sampling: the fields of
        `generation.sampling.Sampling`, e.g. temperature, top_k, top_p, repetition_penalty, seed.
        """
        from blankfill.generation.sampling import Sampling
        from blankfill.generation.write import generate

        return generate(
            self.loaded, prompt, max_new_tokens, Sampling(**sampling), slide, cancel, add_bos, allow_unknown
        )

    def generate_many(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 100,
        slide: bool = False,
        cancel: CancelFlag | None = None,
        add_bos: bool | None = None,
        allow_unknown: bool = False,
        **sampling: Any,
    ) -> list[Generation]:
        """Continue several texts in one batch; as `generate`, for each."""
        from blankfill.generation.sampling import Sampling
        from blankfill.generation.write import generate_many

        return generate_many(
            self.loaded, prompts, max_new_tokens, Sampling(**sampling), slide, cancel, add_bos, allow_unknown
        )

    @overload
    def chat(self, messages: Messages, stream: Literal[False] = False, **more: Any) -> Reply: ...
    @overload
    def chat(self, messages: Messages, stream: Literal[True], **more: Any) -> Iterator[str]: ...
    def chat(
        self,
        messages: Messages,
        stream: bool = False,
        cancel: CancelFlag | None = None,
        number: int = 0,
        *,
        template: str | Path | ChatTemplate | None = None,
        allow_unknown: bool = False,
        **options: Any,
    ) -> Reply | Iterator[str]:
        """Answer a conversation; see the function `chat`.

        stream: yield pieces of the answer as they are finished. cancel: a flag that ends the answer once it is set.
        number: of the sample; with the same seed, another number draws another answer.
        """
        from blankfill.chatting.messages import messages_of, user

        spoken = [user(messages)] if isinstance(messages, str) else messages_of(messages)
        chat = self.chat_engine(template, allow_unknown, **options)
        answering = chat.answer(spoken, cancel, number)
        if stream:
            return iter(answering)
        for _ in answering:
            pass
        return answering.reply

    def _writer_of_adapter(self) -> Predictor | None:
        """Return the fine-tuned model of an adapter that has learnt to write, in the number type of its base; None
        without one."""
        from blankfill.finetuning.adapter_folder import tuned_from_adapter
        from blankfill.finetuning.predictor import Predictor

        if self._adapter is None or not self._adapter.has_task:
            return None
        read = tuned_from_adapter(self.loaded, self._adapter)
        device = self.loaded.model.device
        return Predictor(read.path, str(device), None, read=read) if read.task.writes else None

    def chat_engine(
        self, template: str | Path | ChatTemplate | None = None, allow_unknown: bool = False, **options: Any
    ) -> Chat:
        """Return the object that answers conversations with this model, to use it again; see `chat`. Raises UserError
        for a model that does not write."""
        from blankfill.chatting.engine import speaker_of
        from blankfill.chatting.models import chat_with
        from blankfill.chatting.templates import FILE
        from blankfill.finetuning.speaker import tuned_speaker

        writer = self._predictor or self._once("writer", self._writer_of_adapter)
        if self._loaded is not None and (writer is None or not writer.task.writes):
            speaker, given = speaker_of(self.loaded), template
            if template is None and self._adapter is not None and (self._adapter.path / FILE).is_file():
                given = self._adapter.path / FILE
            default = self.loaded.objective.chat_template
        else:
            speaker, own = tuned_speaker(writer or self.predictor)
            given, default = template or own, own.name
        return chat_with(speaker, given, default, options, allow_unknown)

    def embed(
        self, texts: Sequence[str], pooling: Pooling = "mean", normalize: bool = True, allow_unknown: bool = False
    ) -> Float32:
        """Return a vector for each text, float32[N, D]; texts that are too long are cut. See
        `embedding.embed.Embedder`, and `fill` for allow_unknown."""
        with counting("the texts", allow=allow_unknown):
            return self.embedder(pooling, normalize).vectors(texts).array

    def predict(self, rows: Iterable[PythonRow], allow_unknown: bool = False) -> list[dict[str, Any]]:
        """Predict the rows of the task for which the model was fine-tuned.

        Args:
            rows: A row is a text, two with a tab between, a mapping with the fields of the task (`text` and `second`;
                `words`; `question` and `context`; `context` and `choices`; `source` and `second`), or a sequence of
                their values, such as (text, second) or a list of words.
            allow_unknown: Predict although more than 5% of the tokens are unknown to the model's tokenizer.

        Returns:
            A dictionary for each row, as `blankfill predict` writes it: `id`, and by the kind of task `label` with
            `probabilities`, `labels` with `probabilities`, `score`, `tags` with `entities`, `answer` with `best`, or
            `text`.

        Raises:
            UserError: A row has another form, the model is not fine-tuned, or the text is unknown to it.
        """
        from blankfill.finetuning.predict import predict

        return predict(self.predictor, rows, allow_unknown=allow_unknown).rows

    def _once(self, key: Any, make: Callable[[], Part]) -> Part:
        """Return a part that is made on first use, by one thread."""
        with self._lock:
            if key not in self._parts:
                self._parts[key] = make()
            part: Part = self._parts[key]
            return part


def load(
    path: str | Path,
    device: str = "cpu",
    dtype: torch.dtype | WeightType | None = None,
    *,
    head: bool | None = None,
    optimize: bool = True,
    threads: int | None = None,
    n_best: int = 1,
    search: Mapping[str, Any] | None = None,
    adapter: str | Path | None = None,
) -> Model:
    """Open the model of a folder.

    Args:
        path: A run folder or one of its checkpoints, an imported model or a transformers folder; a fine-tuning run, or
            the folder of several that belong together.
        device: "cpu", "cuda", "mps" or "auto".
        dtype: The type to convert weights to, or its name ("fp32", "bf16", "fp16"); None or "auto" keeps the
            stored type.
        head: Whether the model must be a fine-tuned one (True) or a pretrained one (False); None takes either.
        optimize: Whether to change the memory layout of a model that generates text for single tokens (`model.layout`).
            This takes a moment and the memory of a second copy of the token embeddings. A model that only reads keeps
            a copy of its dense layers in a faster format, where there is one (`model.prepacked`).
        threads: CPU threads of torch; 0 for the usual number, None to leave the number as it is.
        n_best: For a fine-tuned model that generates text, the number of texts for each item.
        search: For a fine-tuned model that generates text, options that differ from training.
        adapter: A folder with LoRA's matrices or a prefix for the pretrained model in `path`: one that fine-tuning
            wrote, one of peft, or a checkpoint of ChatGLM-6B's P-tuning v2. If it has a task, `predict` works too,
            in float32: so not with `dtype`.

    Returns:
        The model, ready to use from several threads.

    Raises:
        UserError: There is no such model in the folder, or no such device; the adapter belongs to another model.
    """
    from blankfill.checkpoint import store
    from blankfill.checkpoint.dtypes import dtype_named
    from blankfill.checkpoint.load import load_model
    from blankfill.finetuning.predictor import holds_fine_tuned, open_predictor
    from blankfill.system.threads import use_threads

    path = store.pointed(Path(path))
    if isinstance(dtype, str):
        dtype = dtype_named(dtype)
    if adapter is not None:
        return _with_adapter(path, Path(adapter), device, dtype, head, optimize, threads, n_best, search)
    if holds_fine_tuned(path) if head is None else head:
        if dtype is not None:
            raise UserError(f"{path}: a fine-tuned model computes in float32; leave out dtype")
        return Model(predictor=open_predictor(path, device, threads, n_best, search))
    if threads is not None:
        use_threads(threads)
    loaded = load_model(path, device, dtype)
    if optimize:
        _optimize(loaded)
    return Model(loaded)


def _with_adapter(
    path: Path,
    folder: Path,
    device: str,
    dtype: torch.dtype | None,
    head: bool | None,
    optimize: bool,
    threads: int | None,
    n_best: int,
    search: Mapping[str, Any] | None,
) -> Model:
    """Open a pretrained model with an adapter; see `load`."""
    import torch

    from blankfill.adapt.folder import read_adapter
    from blankfill.adapt.loading import load_adapter
    from blankfill.checkpoint.load import load_model
    from blankfill.finetuning.adapter_folder import tuned_from_adapter
    from blankfill.finetuning.predictor import Predictor, holds_fine_tuned
    from blankfill.system.threads import use_threads

    adapter = read_adapter(folder)
    if holds_fine_tuned(path):
        raise UserError(f"{path} is a fine-tuned model; an adapter belongs to the pretrained model below it")
    predicts = (adapter.has_task and dtype is None) if head is None else head
    if predicts and dtype is not None:
        raise UserError(f"{adapter.path}: a fine-tuned model computes in float32; leave out dtype")
    if threads is not None:
        use_threads(threads)
    loaded = load_adapter(load_model(path, device, torch.float32 if predicts else dtype), adapter)
    predictor = None
    if predicts:
        predictor = Predictor(adapter.path, device, None, n_best, search, tuned_from_adapter(loaded, adapter))
    if optimize and not head:
        _optimize(loaded)
    model = Model(loaded, predictor)
    model._adapter = adapter
    return model


def fill(
    model: str | Path | Model,
    text: str,
    *,
    top_k: int = 5,
    lengths: str | None = None,
    length_penalty: float = 0.0,
    cancel: CancelFlag | None = None,
    allow_unknown: bool = False,
) -> FillResult:
    """Fill the blanks of a text with a pretrained model.

    Args:
        model: The folder of a model, or a model that `load` has opened, to use it again.
        text: The text, with blanks written [MASK], ____ or [MASK:3] (three tokens).
        top_k: Number of candidates for each blank.
        lengths: Lengths in tokens that a blank may have, such as "1-4"; None for the usual ones.
        length_penalty: Above 0, longer candidates of GLM, T5 and BART rank higher.
        cancel: A `threading.Event` or a function; once it is set, CancelledError ends the call.
        allow_unknown: Fill although most of the text is unknown to the model's tokenizer.

    Returns:
        The filled text, and the candidates of each blank.

    Raises:
        UserError: The text has no blank, the model cannot fill blanks, or most of the text is unknown to it.
    """
    return _opened(model, optimize=False).fill(text, top_k, lengths, length_penalty, cancel, allow_unknown)


def generate(
    model: str | Path | Model,
    prompt: str,
    *,
    max_new_tokens: int = 100,
    slide: bool = False,
    cancel: CancelFlag | None = None,
    add_bos: bool | None = None,
    allow_unknown: bool = False,
    **sampling: Any,
) -> str:
    """Continue a text with a pretrained model; `Model.generate` yields the pieces as they are finished.

    Args:
        model: The folder of a model, or a model that `load` has opened, to use it again.
        prompt: The text to continue.
        max_new_tokens: Largest number of new tokens.
        slide: Continue past the position table by dropping the older half of the text (GPT).
        cancel: A `threading.Event` or a function that ends the text once it is set.
        add_bos: Whether GPT reads the begin token before the prompt; None for as in its training: before documents, but
            not for models of a stream, such as GPT-2.
        allow_unknown: Continue the prompt although most of it is unknown to the model's tokenizer.
        sampling: Fields of `Sampling`: temperature, top_k, top_p, repetition_penalty, no_repeat_ngram, seed.

    Returns:
        The continuation, without the prompt.

    Raises:
        UserError: The model cannot generate text, or an option of the sampling has an impossible value.
    """
    opened = _opened(model, optimize=True)
    return "".join(opened.generate(prompt, max_new_tokens, slide, cancel, add_bos, allow_unknown, **sampling))


@overload
def chat(model: str | Path | Model, messages: Messages, *, stream: Literal[False] = False, **more: Any) -> Reply: ...
@overload
def chat(model: str | Path | Model, messages: Messages, *, stream: Literal[True], **more: Any) -> Iterator[str]: ...
def chat(
    model: str | Path | Model,
    messages: Messages,
    *,
    stream: bool = False,
    template: str | Path | ChatTemplate | None = None,
    cancel: CancelFlag | None = None,
    allow_unknown: bool = False,
    **options: Any,
) -> Reply | Iterator[str]:
    """Answer a conversation with a model that writes.

    Args:
        model: The folder of a model, or a model that `load` has opened, to use it again. A pretrained model continues
            the conversation; a fine-tuned one writes the answer as it has learnt.
        messages: The conversation, whose last message is of the user: a list of `{"role": …, "content": …}` with the
            roles system, user and assistant, or of `Message`; or a text, which is a single question. The oldest rounds
            that do not fit into the model's context are left out.
        stream: Return an iterator over pieces of the answer, as they are finished.
        template: The Jinja file of a chat template, the name of a built-in one (chatglm, plain, plain-zh, bare) or a
            `ChatTemplate`; None for that of the model's folder, else the one of its objective.
        cancel: A `threading.Event` or a function that ends the answer once it is set.
        allow_unknown: Answer although most of the last message is unknown to the model's tokenizer.
        options: max_new_tokens, max_length (of the conversation with its answer, in tokens), process (Chinese
            punctuation as ChatGLM-6B's code writes it), and fields of `Sampling`: temperature, top_k, top_p,
            repetition_penalty, no_repeat_ngram, seed. What is not given is taken from `generation_config.json` of the
            model's folder; else as ChatGLM-6B was released for the template chatglm, and as `ChatOptions` says.

    Returns:
        The answer: `text`, `finish`, `tokens`, `prompt_tokens`, `dropped` (rounds that were left out), and `messages`,
        the conversation with it. With stream, its pieces.

    Raises:
        UserError: The model does not write, the messages make no conversation, the last message is longer than the
            context, the template has an error, an option is impossible, or the model's scores are not finite numbers.
    """
    opened = model if isinstance(model, Model) else load(model)
    more: dict[str, Any] = {"template": template, "cancel": cancel, "allow_unknown": allow_unknown, **options}
    return opened.chat(messages, True, **more) if stream else opened.chat(messages, False, **more)


def embed(
    model: str | Path | Model,
    texts: Sequence[str],
    *,
    pooling: Pooling = "mean",
    normalize: bool = True,
    allow_unknown: bool = False,
) -> Float32:
    """Compute a vector for each text.

    Args:
        model: The folder of a model, or a model that `load` has opened, to use it again.
        texts: N texts; those that are longer than the model reads are cut.
        pooling: "mean" of the hidden states of the text's tokens, or the hidden state of "cls".
        normalize: Scale each vector to length 1.
        allow_unknown: Compute vectors although more than 5% of the tokens are unknown to the model's tokenizer.

    Returns:
        float32[N, D].

    Raises:
        UserError: The model has no such state, a text is empty for it, or too many tokens are unknown.
    """
    return _opened(model, optimize=False).embed(texts, pooling, normalize, allow_unknown)


def _opened(model: str | Path | Model, optimize: bool) -> Model:
    return model if isinstance(model, Model) else load(model, head=False, optimize=optimize)


def _optimize(loaded: Loaded) -> None:
    """Lay the weights out for writing, of a model that writes, or for reading, once and before anybody uses them."""
    from blankfill.model.layout import optimize_for_inference
    from blankfill.model.prepacked import prepack

    if loaded.objective.writes:
        optimize_for_inference(loaded.model)
    else:
        prepack(loaded.model)
