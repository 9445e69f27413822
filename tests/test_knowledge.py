"""What the bundled checkpoint cannot know of a prompt, and where that is said."""

from random import Random

import pytest

from mlx_diffusion.cli.main import main
from mlx_diffusion.measure import beyond_demo
from mlx_diffusion.measure.tasks import FAMILIES
from mlx_diffusion.measure.tasks.lists import WORDS


def test_prompts_of_its_own_tasks_are_in_no_doubt() -> None:
    rng = Random(1)
    prompts = {make(rng).messages[-1]["content"] for make in FAMILIES.values() for _ in range(100)}
    assert not {prompt: doubt for prompt in prompts if (doubt := beyond_demo(prompt))}


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("Copy: apple banana cherry", '"apple", "banana", "cherry"'),
        ("Insert plum at 2: fig oak ant", '"plum"'),
        ("Sort: fig, oak, ant", '"fig,"'),
        ("Sort: fig oak", "this has 2"),
        ("Reverse: " + " ".join(WORDS[:8]), "this has 8"),
        ("Add: 120 + 3", "below 100"),
        ("In words: 12000", "below 10,000"),
        ("Story: Bob and the fox", '"Bob"'),
        ("Why is the sky blue?", '"sky"'),
        ("Copy fig oak ant", "no such task"),
        ("Copy: " + "x" * 1000 + " a b c d e f g h i", "and more"),
    ],
)
def test_what_it_cannot_know_is_named(prompt: str, named: str) -> None:
    doubt = beyond_demo(prompt)
    assert doubt is not None and named in doubt and len(doubt) < 500


def test_a_long_conversation_is_in_doubt() -> None:
    assert beyond_demo("Copy: fig oak ant", earlier=1) is None
    assert "number 3" in (beyond_demo("Copy: fig oak ant", earlier=2) or "")


@pytest.mark.parametrize("command", [["generate"], ["chat", "-m"]])
def test_the_command_says_so(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "Copy: apple fig oak", "--max-tokens", "4"]) == 0
    assert '"apple"' in capsys.readouterr().err.splitlines()[2]
