"""The published training objective of DiffusionGemma, on Transformers' own class.

t ~ U(1e-4, 1 − 1e-4) per example; each canvas token is replaced by a uniform random one with probability t. The encoder
reads the whole clean sequence causally, prompt and all canvases; the decoder reads its keys and values of the prefix
alone. Self-conditioning takes two passes, the first without gradient, for half of the examples; the others get a zero
signal. Loss = mean cross-entropy over the whole canvas, corrupted and clean alike, + mean next-token cross-entropy of
the encoder over the whole sequence, both means of every example's own mean.
"""

import copy

import torch
import torch.nn.functional as F
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.cache_utils import DynamicCache

from .head import cross_entropy

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


def encode(
    model: DiffusionGemmaForBlockDiffusion, tokens: torch.Tensor, mask: torch.Tensor, kept: int
) -> tuple[torch.Tensor, DynamicCache]:
    """The encoder's last hidden states [B, S, D] of `tokens` [B, S], and the cache of the first `kept` of them.

    Causal, so that the cache is the one of a pass over those `kept` alone. Sliding layers keep the last window - 1
    positions of what they are given: they have to record them all until the cut.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    cache.activate_past_recording()
    hidden = model.model.encoder(input_ids=tokens, attention_mask=mask, cache=cache).last_hidden_state
    cache.crop(kept - tokens.shape[1])
    return hidden, cache


def token_loss(
    model: DiffusionGemmaForBlockDiffusion, hidden: torch.Tensor, targets: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """Mean over the examples of the mean cross-entropy of the counted `targets` [B, T] from [B, T, D]."""
    shares = (counted / (counted.sum(1, keepdim=True) * len(counted)))[counted]
    cap = model.config.get_text_config().final_logit_softcapping
    return cross_entropy(hidden[counted], model.lm_head.weight, targets[counted], shares, cap)


def losses(
    model: DiffusionGemmaForBlockDiffusion,
    prefix: torch.Tensor,  # [B, P], padded on the left
    canvas: torch.Tensor,  # [B, L]
    rest: torch.Tensor,  # [B, R], padded on the right
    generator: torch.Generator,
) -> Losses:
    """(canvas, encoder) mean cross-entropies in nats of one batch."""
    rows, length = canvas.shape
    start = prefix.shape[1]
    text = model.config.get_text_config()
    tokens = torch.cat((prefix, canvas, rest), dim=1)  # [B, P + L + R]
    mask = tokens != text.pad_token_id
    hidden, cache = encode(model, tokens, mask, start)
    noisy = corrupt(canvas, text.vocab_size, generator)
    decoder_mask = F.pad(mask[:, :start], (0, length), value=True)
    positions = torch.arange(start, start + length)[None]

    half = rows // 2
    with torch.no_grad():
        first = model(
            decoder_input_ids=noisy[:half],
            cache=first_rows(cache, half),
            decoder_attention_mask=decoder_mask[:half],
            decoder_position_ids=positions,
        ).logits
    denoised = model.model(
        decoder_input_ids=noisy,
        cache=cache,
        self_conditioning_logits=F.pad(first, (0, 0, 0, 0, 0, rows - half)),
        self_conditioning_mask=torch.arange(rows) < half,
        decoder_attention_mask=decoder_mask,
        decoder_position_ids=positions,
    ).last_hidden_state
    return (
        token_loss(model, denoised, canvas, torch.ones_like(canvas, dtype=torch.bool)),
        token_loss(model, hidden[:, :-1], tokens[:, 1:], mask[:, 1:] & mask[:, :-1]),
    )
