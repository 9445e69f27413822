"""Events of a generation with the bundled checkpoint, kept with their times and texts, so that drawing needs no model.

python tests/recorded_events.py      records them anew
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_diffusion.events import Draft, Event, Finish, Segment, Stats

FILE = Path(__file__).parent / "fixtures" / "events.npz"
PROMPT = "Story: Katan and the fox"


@dataclass(frozen=True)
class Recording:
    """A prompt and what came of it; `seconds` are those from the first event to each."""

    prompt: str
    steps: int  # the most a canvas could take
    stops: tuple[int, ...]
    events: list[Event]
    seconds: list[float]
    texts: dict[int, str]

    @property
    def drafts(self) -> list[Draft]:
        return [event for event in self.events if isinstance(event, Draft)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.texts[token] for token in tokens)

    def save(self, path: Path) -> None:
        drafts = self.drafts
        rest = [
            [type(event).__name__, dataclasses.asdict(event) if not isinstance(event, Draft) else {}]
            for event in self.events
        ]
        np.savez_compressed(
            path,
            place=np.array([(draft.block, draft.step) for draft in drafts], np.int32),
            canvas=np.stack([draft.canvas for draft in drafts]).astype(np.int16),
            argmax=np.stack([draft.argmax for draft in drafts]).astype(np.int16),
            accepted=np.stack([draft.accepted for draft in drafts]),
            entropy=np.stack([draft.entropy for draft in drafts]).astype(np.float16),
            seconds=np.array(self.seconds, np.float32),
            rest=json.dumps([self.prompt, self.steps, self.stops, rest, self.texts]),
        )

    @classmethod
    def read(cls, path: Path = FILE) -> Recording:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        prompt, steps, stops, rest, texts = json.loads(str(arrays["rest"]))
        drafts = iter(
            Draft(int(block), int(step), canvas, argmax, accepted, entropy)
            for (block, step), canvas, argmax, accepted, entropy in zip(
                arrays["place"],
                arrays["canvas"].astype(np.int32),
                arrays["argmax"].astype(np.int32),
                arrays["accepted"],
                arrays["entropy"].astype(np.float32),
                strict=True,
            )
        )
        events: list[Event] = []
        for kind, fields in rest:
            if kind == "Draft":
                events.append(next(drafts))
            elif kind == "Segment":
                events.append(Segment(**{**fields, "tokens": tuple(fields["tokens"])}))
            else:
                events.append(Finish(**{**fields, "stats": Stats(**fields["stats"])}))
        seconds = arrays["seconds"].tolist()
        return cls(prompt, steps, tuple(stops), events, seconds, {int(token): text for token, text in texts.items()})


def record() -> Recording:
    from mlx_diffusion import load, stream_generate

    model, tokenizer = load("demo")
    settings = model.generation_defaults.resolve()
    events: list[Event] = []
    seconds: list[float] = []
    for event in stream_generate(model, tokenizer, [{"role": "user", "content": PROMPT}]):
        events.append(event)
        seconds.append(time.perf_counter())
    used = {int(token) for event in events if isinstance(event, Draft) for token in event.argmax}
    texts = {token: tokenizer.decode([token]) for token in sorted(used)}
    since = [moment - seconds[0] for moment in seconds]
    return Recording(PROMPT, settings.max_denoising_steps, settings.eos_token_id, events, since, texts)


if __name__ == "__main__":
    recording = record()
    recording.save(FILE)
    print(f"{FILE}: {len(recording.drafts)} steps, {FILE.stat().st_size} bytes; {recording.text!r}")
