"""Clients of a server that ask at once, and what each of them met: waiting, speed, fairness.

Knows HTTP and OpenAI's streams, and nothing of whose server it is.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from random import Random
from statistics import median
from typing import Any

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.tasks import FAMILIES, draw
from mlx_diffusion.measure.tasks.task import Task

PATH = "/v1/chat/completions"
FAMILIES_ASKED = ("copy", "sort", "to_json", "story")  # tasks that the bundled checkpoint knows; a round asks for one
LONGEST_WAIT = 600.0  # seconds for one part of an answer


@dataclass(frozen=True)
class ServedAnswer:
    """What one request met; times in seconds from its sending."""

    first_text: float
    whole: float
    tokens: int
    right: bool


@dataclass(frozen=True)
class ServedLoad:
    """What so many clients met that each sent so many equal requests, one behind the other."""

    clients: int
    requests: int
    lost: int  # without a whole answer
    seconds: float
    first_text_seconds: float  # median
    slowest_first_text_seconds: float
    tokens_per_second: float  # of all
    slowest_tokens_per_second: float  # of one client
    unfairness: float  # the slowest request's time over the median's, among those of one round
    tokens: int
    right: int  # answers
    steps: int = 0  # denoising steps of all answers; what follows is the server's, where it says so
    cpu_seconds: float = 0.0  # of the server's process in all its threads
    memory_bytes: int = 0  # of the server's process behind the load

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load(port: int, model: str, clients: int, each: int, tokens: int, **wishes: Any) -> ServedLoad:
    """Let clients ask at once. `tokens` are the most of an answer; wishes are further fields of the requests.

    In each round of the clients all requests are for answers of one kind. Raises EvaluationError where no request has
    been answered.
    """
    asked = served_tasks(clients, each)

    def client(number: int) -> list[ServedAnswer | None]:
        rounds = enumerate(asked[number])
        return [_asked(port, task, _body(model, task, number * each + turn, tokens, wishes)) for turn, task in rounds]

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(client, range(clients)))
    seconds = time.perf_counter() - began
    answers = [answer for own in found for answer in own if answer is not None]
    if not answers:
        raise EvaluationError(f"the server on port {port} has answered none of {count_of(clients * each, 'request')}")
    speeds = [_speed([answer for answer in own if answer is not None]) for own in found]
    return ServedLoad(
        clients=clients,
        requests=clients * each,
        lost=clients * each - len(answers),
        seconds=seconds,
        first_text_seconds=median(answer.first_text for answer in answers),
        slowest_first_text_seconds=max(answer.first_text for answer in answers),
        tokens_per_second=sum(answer.tokens for answer in answers) / seconds,
        slowest_tokens_per_second=min(speeds),
        unfairness=max(_unfairness([own[turn] for own in found]) for turn in range(each)),
        tokens=sum(answer.tokens for answer in answers),
        right=sum(answer.right for answer in answers),
    )


def served_tasks(clients: int, each: int) -> list[list[Task]]:
    """What each client asks for, round by round: the same in every load of so many."""
    kinds = [FAMILIES[FAMILIES_ASKED[turn % len(FAMILIES_ASKED)]] for turn in range(each)]
    return [
        [draw(kind, Random(f"{number} {turn}"), "held_out") for turn, kind in enumerate(kinds)]
        for number in range(clients)
    ]


def _unfairness(answers: list[ServedAnswer | None]) -> float:
    times = [answer.whole for answer in answers if answer is not None]
    return max(times) / median(times) if times else 1.0


def _speed(answers: list[ServedAnswer]) -> float:
    return sum(answer.tokens for answer in answers) / max(sum(answer.whole for answer in answers), 1e-9)


def _body(model: str, task: Task, seed: int, tokens: int, wishes: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "messages": list(task.messages), "max_tokens": tokens, "seed": seed, "stream": True,
            "stream_options": {"include_usage": True}, **wishes}  # fmt: skip


def _asked(port: int, task: Task, body: dict[str, Any]) -> ServedAnswer | None:
    """What a request met; None where it got no whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_WAIT)
    began = time.perf_counter()
    first_text, tokens, text = None, 0, ""
    try:
        connection.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        for chunk in _chunks(reply):
            tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
            delta = (chunk.get("choices") or [{}])[0].get("delta") or {}
            if first_text is None and (delta.get("content") or delta.get("reasoning_content")):
                first_text = time.perf_counter() - began
            text += delta.get("content") or ""
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    whole = time.perf_counter() - began
    if not tokens:
        return None
    return ServedAnswer(whole if first_text is None else first_text, whole, tokens, task.is_right(text))


def _chunks(reply: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The chunks of a stream up to its end. Raises ValueError for one that breaks off."""
    for line in reply:
        data = line.decode().strip().removeprefix("data: ")
        if data == "[DONE]":
            return
        if data.startswith("{"):
            chunk = json.loads(data)
            if "error" in chunk:
                raise ValueError(chunk["error"])
            yield chunk
    raise ValueError("no end")
