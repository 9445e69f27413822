"""Requests as OpenAI's clients write them, checked field by field; nothing that they ask for is passed over.

Fields beside OpenAI's are the options of `GenerationConfig` by their own names. Knows nothing of how an answer is made
or written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from mlx_diffusion.display import count_of
from mlx_diffusion.modes import Mode
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.bodies import Body, Count, Penalty, Seed, Steps
from mlx_diffusion.serving.conversations import OfferedTool, SpokenMessage
from mlx_diffusion.serving.limits import Limits
from mlx_diffusion.serving.problems import bad, check_tokens, one_seed
from mlx_diffusion.serving.tool_choices import NamedChoice, form_of_calls

MOST_LIKELY = 20  # tokens whose likelihoods a request may ask for, at each place
SAME_NAMES = (
    "seed mode stop temperature top_p top_k min_p repetition_penalty repetition_context_size logit_bias "
    "max_denoising_steps entropy_bound t_min t_max stability_threshold confidence_threshold canvas_length "
    "early_end lock_threshold refresh_every crop_threshold first_canvas draft_width draft_steps"
).split()  # here and in GenerationConfig
PENALTIES = ("frequency_penalty", "presence_penalty")


class StreamOptions(Body):
    """What comes with a stream."""

    include_usage: bool = False


class SchemaFormat(Body):
    """A schema that an answer fits. It always does, whatever `strict` says."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class AnswerFormat(Body):
    """The format that an answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @property
    def constraint(self) -> dict[str, Any] | None:
        """The same as a constraint. Raises RequestError."""
        if (self.json_schema is None) == (self.type == "json_schema"):
            raise bad("a json_schema belongs to the format json_schema, and that needs one", "response_format")
        if self.json_schema is not None:
            return {"json_schema": self.json_schema.schema_}
        return {"json_object": True} if self.type == "json_object" else None


class TemplateVariables(Body):
    """The variables of a chat template that a request may set."""

    enable_thinking: bool | None = None


class TextOptions(Body):
    """What requests for chats and for plain texts share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Count | None = None
    seed: Seed | None = None
    random_seed: Seed | None = None  # the same as Mistral's clients call it
    mode: Mode | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Count | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repetition_context_size: Count | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    max_denoising_steps: Steps | None = None
    entropy_bound: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    stability_threshold: Count | None = None
    confidence_threshold: float | None = None
    canvas_length: Count | None = None
    early_end: float | None = None
    lock_threshold: float | None = None
    refresh_every: Count | None = None
    crop_threshold: float | None = None
    first_canvas: Count | None = None
    draft_width: Count | None = None
    draft_steps: Steps | None = None
    constraint: dict[str, Any] | None = None  # what the text must be, as `generate` takes it
    x_diffusion_drafts: bool | None = None
    user: str | None = None  # says who asks, which changes no answer, as do the next three
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def wants_drafts(self) -> bool:
        return bool(self.x_diffusion_drafts)

    @property
    def likeliest(self) -> int | None:
        """How many likely tokens are asked for at each place; None: no likelihoods."""
        return None

    @property
    def wanted_form(self) -> dict[str, Any] | None:
        """What the text must be; None: anything."""
        return self.constraint

    def config(self, defaults: GenerationConfig, limits: Limits) -> GenerationConfig:
        """The options of the engine that this asks for. Raises OptionError and RequestError."""
        for name in PENALTIES:
            if getattr(self, name):
                raise bad(f"{name} is not there; repetition_penalty is, in modes autoregressive and speculative", name)
        if self.stream_options is not None and not self.stream:
            raise bad("stream_options is for streams; send stream: true with it", "stream_options")
        if self.x_diffusion_drafts and not self.stream:
            raise bad("x_diffusion_drafts is for streams; send stream: true with it", "x_diffusion_drafts")
        check_tokens(self.wanted_tokens, limits.max_tokens)
        if (self.likeliest or 0) > MOST_LIKELY:
            raise bad(f"likelihoods of {count_of(self.likeliest or 0, 'token')} asked for; {MOST_LIKELY} are the most")
        wishes: dict[str, Any] = {name: getattr(self, name) for name in SAME_NAMES}
        wishes |= {
            "seed": one_seed(self.seed, self.random_seed),
            "top_p": None if self.top_p == 1 else self.top_p,
            "stop": self.stop or None,
        }  # 1 and [] ask for nothing
        wishes |= {"max_tokens": self.wanted_tokens, "logprobs": self.likeliest, "logit_bias": self.logit_bias or None}
        return defaults.for_mode(self.mode or defaults.mode or "reference").override(wishes)


class ChatRequest(TextOptions):
    """The body of a request for the next message of a conversation."""

    messages: list[SpokenMessage]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["auto", "none", "any", "required"] | NamedChoice | None = None  # Mistral's "any": required
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    response_format: AnswerFormat | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    diffusing: bool | None = None  # the content of each chunk of a stream is the whole text so far, as Mercury has it

    @property
    def wants_drafts(self) -> bool:
        if self.diffusing and not self.stream:
            raise bad("diffusing is for streams; send stream: true with it", "diffusing")
        if self.diffusing and self.x_diffusion_drafts:
            raise bad("diffusing and x_diffusion_drafts both ask for drafts; send one", "diffusing")
        return bool(self.diffusing) or super().wants_drafts

    @property
    def wanted_tokens(self) -> int | None:
        given = (self.max_tokens, self.max_completion_tokens)
        if None not in given and given[0] != given[1]:
            raise bad(f"max_tokens is {given[0]} and max_completion_tokens {given[1]}; send one of them", "max_tokens")
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def likeliest(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise bad("top_logprobs needs logprobs: true", "top_logprobs")
        return self.top_logprobs or 0 if self.logprobs else None

    @property
    def thinks(self) -> bool | None:
        """Whether the model is to think first; None leaves it to the template."""
        named = self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None
        if None not in (named, self.enable_thinking) and named != self.enable_thinking:
            raise bad("enable_thinking differs from that of chat_template_kwargs; send one of them", "enable_thinking")
        return self.enable_thinking if named is None else named

    @property
    def wanted_form(self) -> dict[str, Any] | None:
        forms = {
            "response_format": self.response_format.constraint if self.response_format else None,
            "constraint": self.constraint,
            "tool_choice": form_of_calls(self.declared_tools, self.tool_choice, self.parallel_tool_calls is not False),
        }
        given = [name for name, form in forms.items() if form is not None]
        if len(given) > 1:
            raise bad(f"{' and '.join(given)} both say what the text must be; send one", given[-1])
        return forms[given[0]] if given else None

    @property
    def declared_tools(self) -> Sequence[Mapping[str, Any]]:
        return [tool.sent for tool in self.tools or []]

    @property
    def offered_tools(self) -> Sequence[Mapping[str, Any]] | None:
        """The tools that the model is told of."""
        return None if self.tool_choice == "none" else self.declared_tools or None

    @property
    def conversation(self) -> Sequence[Mapping[str, Any]]:
        """The messages as they were sent."""
        return [message.sent for message in self.messages]


class CompletionRequest(TextOptions):
    """The body of a request for the text that follows another."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    best_of: Literal[1] | None = None
    suffix: str | None = None  # what follows the text that is to be written between the two

    @property
    def likeliest(self) -> int | None:
        if self.echo and self.logprobs is not None:
            raise bad("likelihoods are those of the answer alone; leave echo or logprobs out", "logprobs")
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, each as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [token for token in self.prompt if isinstance(token, int)]
        return [ids] if ids or not self.prompt else [part for part in self.prompt if not isinstance(part, int)]
