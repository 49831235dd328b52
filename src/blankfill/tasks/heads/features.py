"""An encoder's hidden states as features, as BERT's authors tried them (Devlin et al. 2019, section 5.3).

Which layers of a frozen encoder, and how they are joined:

* "last", "second-to-last": one layer.
* "sum-last-4", "concat-last-4": the last four, summed or side by side.
* "weighted-sum": all layers, embeddings included, each with a weight that is learnt (softmax, times one scale).

A linear layer reads the features, directly or after two layers of a bidirectional LSTM (768 units in BERT's paper),
which read the columns of each item separately. The encoder runs without dropout and without gradients. The LSTM can
also read the last layer of an encoder that is trained with it (table 5 of the same paper, LTR + BiLSTM).

Shapes: B rows, T columns, N = B·T, D width, L layers and the embeddings, S items of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blankfill.model.draw import Rule
from blankfill.model.initial import draw_weights
from blankfill.model.transformer import Transformer
from blankfill.tasks.options import Features, FinetuneOptions, HeadKind
from blankfill.types import PADDING, Batch

FOUR = 4


def reader_for(
    encoder: Transformer, options: FinetuneOptions, encoder_only: bool = False, seed: int | None = None
) -> FeatureReader | None:
    """Return the reader of an encoder's layers that the options choose; None if the head reads the last layer directly.

    encoder_only: for a model with two stacks, whether to read only the encoder. seed: draws the weights by their names
    in a `TaskModel`, as torch draws those of an LSTM; None: the weights will be loaded.
    """
    if options.features == "none" and options.head == "linear":
        return None
    config = encoder.config
    layers = config.encoder_layers if encoder_only else config.num_layers
    reader = FeatureReader(
        config.hidden_size, layers + 1, options.features, options.head, options.lstm_size, encoder_only
    )
    if seed is not None and reader.lstm is not None:
        rule = Rule("uniform", reader.lstm.hidden_size**-0.5)
        draw_weights(reader.lstm, {name: rule for name, _ in reader.lstm.named_parameters()}, seed, "reader.lstm.")
    return reader


class FeatureReader(nn.Module):
    """Hidden states of an encoder → features [N, width]."""

    def __init__(
        self,
        encoder_width: int,
        layers: int,
        features: Features,
        top: HeadKind,
        hidden: int,
        encoder_only: bool = False,
    ) -> None:
        """layers: L. features: "none" is the last layer of an encoder that is trained. hidden: units of the LSTM in one
        direction. encoder_only: see `Transformer.forward`."""
        super().__init__()
        self.features, self.encoder_only = features, encoder_only
        self.weights = nn.Parameter(torch.zeros(layers)) if features == "weighted-sum" else None
        self.scale = nn.Parameter(torch.ones(())) if features == "weighted-sum" else None
        width = encoder_width * (min(FOUR, layers) if features == "concat-last-4" else 1)
        lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True) if top == "bilstm" else None
        self.lstm = lstm
        self.width = 2 * hidden if lstm is not None else width

    def forward(self, encoder: Transformer, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Return the features of all columns, [N, width]; those of padding have no meaning."""
        if self.features == "none":
            return self.read(encoder(batch, dtype, encoder_only=self.encoder_only).hidden.flatten(0, 1), batch)
        was_training = encoder.training
        encoder.eval()
        with torch.no_grad():
            outputs = encoder(batch, dtype, encoder_only=self.encoder_only, output_hidden_states=True)
        encoder.train(was_training)
        layers = [*outputs.hidden_states[:-1], outputs.hidden]
        return self.read(self.join(layers).flatten(0, 1), batch)

    def join(self, layers: list[Tensor]) -> Tensor:
        """Return the chosen layers, joined: [B, T, width]."""
        if self.features == "second-to-last":
            return layers[-2]
        if self.features == "sum-last-4":
            return torch.stack(layers[-FOUR:]).sum(0)
        if self.features == "concat-last-4":
            return torch.cat(layers[-FOUR:], -1)
        if self.weights is not None and self.scale is not None:
            return self.scale * torch.einsum("l,lbtd->btd", self.weights.softmax(0), torch.stack(layers))
        return layers[-1]

    def read(self, features_ND: Tensor, batch: Batch) -> Tensor:
        """Return the states of the LSTM, which reads the columns of each item separately, or without an LSTM the
        features: [N, width]."""
        if self.lstm is None:
            return features_ND
        rows, width = batch.segment.shape
        item_N = (torch.arange(rows, device=batch.segment.device)[:, None] * (width + 1) + batch.segment).flatten()
        columns_K = (batch.segment.flatten() != PADDING).nonzero().squeeze(1)
        _, sizes_S = item_N[columns_K].unique_consecutive(return_counts=True)
        parts = torch.split(features_ND[columns_K], sizes_S.tolist())
        packed = nn.utils.rnn.pack_sequence(list(parts), enforce_sorted=False)
        states, lengths = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        out = features_ND.new_zeros(len(features_ND), self.width)
        inside = torch.arange(states.shape[1])[None, :] < lengths[:, None]
        return out.index_put((columns_K,), states[inside.to(states.device)].to(out.dtype))
