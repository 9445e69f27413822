"""Record what Transformers does with a DiffusionGemma checkpoint, randomness included, as one .npz.

All randomness comes from a tape made with NumPy, so any other implementation that reads the same tape must walk the
same trajectory, token for token:

  tape: canvas 0 of block b is `initial[b]` [B, L]; at denoising step s (0 = first) of block b the sample at every
  position is argmax(logits / temperature + gumbel[b, s]) with gumbel [B, L, V], and the positions that are not
  accepted are renoised from `renoise[b, s]` [B, L]. L = canvas length, V = vocabulary.

Written arrays: prompt_ids [B, P]; prompt_mask [B, P] (0 = left padding); initial, gumbel, renoise (the tape); for
every block b and step s that ran: canvas (the decoder's input), argmax, accepted, entropy (nats), each [L] per row;
steps [blocks]; sequences [B, P + new]; encoder_last_hidden [B, P, D] of the prompt; first_logits [B, L, V] of the
first denoising step (softcapped, before temperature).

Needs torch and Transformers 5.24.    record_trajectory.py CHECKPOINT OUT.npz [--prompt-length 40] [--batch 1] ...
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation


class Tape:
    """Pre-drawn randomness for `blocks` canvases of at most `steps` denoising steps."""

    def __init__(self, seed, blocks, steps, batch, canvas, vocab):
        rng = np.random.default_rng(seed)
        self.initial = rng.integers(0, vocab, (blocks, batch, canvas), dtype=np.int32)
        self.renoise = rng.integers(0, vocab, (blocks, steps, batch, canvas), dtype=np.int32)
        self.gumbel = rng.gumbel(size=(blocks, steps, batch, canvas, vocab)).astype(np.float32)


class TapedSampler(generation.EntropyBoundSampler):
    """The reference sampler, drawing from the tape and keeping a record of every step."""

    def __init__(self, *args, tape, record, **kwargs):
        super().__init__(*args, **kwargs)
        self.tape, self.record, self.block, self.step = tape, record, -1, 0

    def initialize_canvas(self, batch_size, device):
        self.block, self.step = self.block + 1, 0
        return torch.from_numpy(self.tape.initial[self.block]).long()

    def accept_canvas(self, current_canvas, denoiser_canvas, logits, cur_step):
        gumbel = torch.from_numpy(self.tape.gumbel[self.block, self.step])
        sampled = (logits.float() + gumbel).argmax(-1)
        accepted = super().accept_canvas(current_canvas, sampled, logits, cur_step)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        self.record.append(
            {
                "block": self.block,
                "step": self.step,
                "canvas": current_canvas.numpy().copy(),
                "argmax": logits.argmax(-1).numpy(),
                "accepted": self.accepted_token_mask.numpy().copy(),
                "entropy": entropy.numpy(),
            }
        )
        return accepted

    def renoise_canvas(self, accepted_canvas, cur_step):
        fresh = torch.from_numpy(self.tape.renoise[self.block, self.step]).long()
        renoised = torch.where(self.accepted_token_mask, accepted_canvas, fresh)
        self.step += 1
        return renoised


def record(checkpoint, out, *, seed, prompt_length, batch, max_new_tokens, padding, dtype="float32"):
    """Run Transformers on `checkpoint` with taped randomness; write the record to `out`."""
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
    config, defaults = model.config, model.generation_config
    vocab, canvas = config.text_config.vocab_size, config.canvas_length
    steps = defaults.max_denoising_steps or 48
    blocks = math.ceil(max_new_tokens / canvas)
    tape = Tape(seed, blocks, steps, batch, canvas, vocab)
    rows: list[dict] = []
    model._prepare_sampler = lambda cfg: TapedSampler(
        cfg.sampler_config, canvas_length=canvas, vocab_size=vocab, max_denoising_steps=steps, tape=tape, record=rows
    )

    rng = np.random.default_rng(seed + 1)
    prompt = rng.integers(8, vocab - 8, (batch, prompt_length))
    mask = np.ones_like(prompt)
    for row in range(batch):
        mask[row, : (row * padding)] = 0
    prompt[mask == 0] = config.text_config.pad_token_id or 0
    ids, attention = torch.from_numpy(prompt).long(), torch.from_numpy(mask).long()

    with torch.no_grad():
        encoded = model.model.encoder(input_ids=ids, attention_mask=attention.bool())
        result = model.generate(ids, attention_mask=attention, max_new_tokens=max_new_tokens)
        first = model(
            decoder_input_ids=torch.from_numpy(tape.initial[0]).long(),
            cache=encoded.cache,
            decoder_attention_mask=torch.nn.functional.pad(attention.bool(), (0, canvas), value=True),
            decoder_position_ids=torch.arange(prompt_length, prompt_length + canvas)[None],
        ).logits
    per_block = [sum(r["block"] == b for r in rows) for b in range(blocks)]
    stack = {k: np.stack([r[k] for r in rows]) for k in ("canvas", "argmax", "accepted", "entropy")}
    np.savez_compressed(
        out,
        prompt_ids=prompt.astype(np.int32),
        prompt_mask=mask.astype(np.int8),
        initial=tape.initial,
        gumbel=tape.gumbel[:, : max(per_block)],
        renoise=tape.renoise[:, : max(per_block)],
        steps=np.array([n for n in per_block if n], np.int32),
        sequences=result.sequences.numpy().astype(np.int32),
        encoder_last_hidden=encoded.last_hidden_state.numpy(),
        first_logits=first.numpy(),
        **stack,
    )
    print(f"{out}: steps per block {per_block}, accepted at last step {rows[-1]['accepted'].mean():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt-length", type=int, default=40)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--padding", type=int, default=0, help="row r of the batch gets r times this many pads, left")
    args = parser.parse_args()
    record(
        args.checkpoint,
        args.out,
        seed=args.seed,
        prompt_length=args.prompt_length,
        batch=args.batch,
        max_new_tokens=args.max_new_tokens,
        padding=args.padding,
    )


if __name__ == "__main__":
    main()
