"""The published training objective of DiffusionGemma, on Transformers' own class.

t ~ U(1e-4, 1 − 1e-4) per example; each canvas token is replaced by a uniform random one with probability t. The encoder
reads the clean prefix causally. Self-conditioning takes two passes, the first without gradient, for half of the
examples; the others get a zero signal. Loss = mean cross-entropy over the whole canvas, corrupted and clean alike,
+ mean next-token cross-entropy of the encoder.
"""

import copy

import torch
import torch.nn.functional as F
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.cache_utils import DynamicCache

Losses = tuple[torch.Tensor, torch.Tensor]


def corrupt(canvas: torch.Tensor, vocab_size: int, generator: torch.Generator) -> torch.Tensor:
    """Replace each token with probability t by a uniform random one; t is drawn for every row."""
    t = torch.rand(len(canvas), 1, generator=generator) * (1 - 2e-4) + 1e-4
    noise = torch.randint(vocab_size, canvas.shape, generator=generator)
    return torch.where(torch.rand(canvas.shape, generator=generator) < t, noise, canvas)


def first_rows(cache: DynamicCache, rows: int) -> DynamicCache:
    """The cache of the first `rows` rows, detached from the graph."""
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in part.layers:
        layer.keys, layer.values = layer.keys[:rows].detach(), layer.values[:rows].detach()
    return part


def losses(
    model: DiffusionGemmaForBlockDiffusion,
    prefix: torch.Tensor,  # [B, P]
    mask: torch.Tensor,  # [B, P]
    canvas: torch.Tensor,  # [B, L]
    generator: torch.Generator,
) -> Losses:
    """(canvas, encoder) mean cross-entropies in nats of one batch."""
    rows, length = canvas.shape
    vocab_size = model.config.text_config.vocab_size
    encoded = model.model.encoder(input_ids=prefix, attention_mask=mask)
    noisy = corrupt(canvas, vocab_size, generator)
    decoder_mask = F.pad(mask, (0, length), value=True)
    positions = torch.arange(prefix.shape[1], prefix.shape[1] + length)[None]

    half = rows // 2
    with torch.no_grad():
        first = model(
            decoder_input_ids=noisy[:half],
            past_key_values=first_rows(encoded.past_key_values, half),
            decoder_attention_mask=decoder_mask[:half],
            decoder_position_ids=positions,
        ).logits
    logits = model(
        decoder_input_ids=noisy,
        past_key_values=encoded.past_key_values,
        self_conditioning_logits=F.pad(first, (0, 0, 0, 0, 0, rows - half)),
        self_conditioning_mask=torch.arange(rows) < half,
        decoder_attention_mask=decoder_mask,
        decoder_position_ids=positions,
    ).logits
    canvas_loss = F.cross_entropy(logits.flatten(0, 1), canvas.flatten())

    known = mask[:, 1:] & mask[:, :-1]
    hidden = encoded.last_hidden_state[:, :-1][known]
    cap = model.config.text_config.final_logit_softcapping
    next_logits = cap * torch.tanh(model.lm_head(hidden) / cap)
    return canvas_loss, F.cross_entropy(next_logits, prefix[:, 1:][known])
