"""The page at `/`: served whole, to whom it may be, and holding nothing that leads elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from served import Served, served

FOLDER = resources.files("mlx_diffusion.serving") / "page"
FILES = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(key="secret") as running:
        yield running


def test_the_page_is_open_to_those_without_the_key_and_its_facts_are_not(server: Served) -> None:
    for name, text in FILES.items():
        got = server.http.get("/" if name == "index.html" else f"/page/{name}")
        assert got.status_code == 200 and got.text == text
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "//" not in policy
    assert server.http.get("/facts").status_code == 401
    facts = server.http.get("/facts", headers={"Authorization": "Bearer secret"}).json()
    assert facts["model"] == "demo" and facts["mode"] in facts["modes"]
    for path in ("/page/", "/page/index.html", "/page/..%2fapp.py", "/page/%2fetc%2fpasswd"):
        assert server.http.get(path).status_code == 404


def test_the_page_names_no_address_and_nothing_that_it_lacks() -> None:
    named = set(re.findall(r'\bid="([\w-]+)"', FILES["index.html"]))
    for name, text in FILES.items():
        assert not re.search(r"(https?:)?//(?!www\.w3\.org/2000/svg)[\w.]+\.\w", text.replace("https?:", "")), name
        assert set(re.findall(r'(?:by|getElementById)\("([\w-]+)"\)', text)) <= named
        assert {part.rpartition("/")[2] for part in re.findall(r'(?:from |href=|src=)"([./\w]+)"', text)} <= set(FILES)
        assert not re.search(r"innerHTML|insertAdjacentHTML|outerHTML|eval\(", text), name
    assert "[hidden] { display: none !important; }" in FILES["style.css"]  # or a panel's own display would win
    ids = re.findall(r'(?:aria-\w+|for)="([a-z-]+)"', FILES["index.html"])
    assert {one for one in ids if one not in ("true", "false", "polite")} <= named


def test_a_button_that_cannot_be_used_keeps_the_focus() -> None:
    assert not re.search(r"<button[^>]* disabled", FILES["index.html"])
    for name, text in FILES.items():  # browsers take the focus from what is disabled
        assert set(re.findall(r"([\w.]+|\))\.disabled = ", text)) <= {"settings.temperature"}, name


TABS = """
const kept = new Map();
globalThis.localStorage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, text) => kept.set(name, text) };
globalThis.addEventListener = () => {};
const { Conversations } = await import(process.argv[1]);
const [one, other] = [new Conversations(), new Conversations()];
const say = (tab, content) => {
  tab.current.messages.push({ role: "user", content });
  tab.keep(tab.current);
};
say(one, "a");
say(other, "b");
say(one, "c");
const first = one.current;
other.remove(first.id);
console.log(JSON.stringify([other.all.map((each) => each.messages.length), one.has(first), one.has(other.current)]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="runs a script of the page in Node")
def test_conversations_of_two_tabs_of_a_browser_are_both_kept(tmp_path: Path) -> None:
    place = tmp_path / "conversations.mjs"
    place.write_text(FILES["conversations.js"], encoding="utf-8")
    command = ["node", "--input-type=module", "--eval", TABS, str(place)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.split() == ["[[1],false,true]"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_may_lead_here_and_no_more(server: Served, site: str) -> None:
    key = {"Authorization": "Bearer secret", "Sec-Fetch-Site": site}
    visit = {**key, "Sec-Fetch-Mode": "navigate"}
    assert server.http.get("/", headers=visit).status_code == 200
    assert server.http.get("/v1/models", headers=visit).status_code == 403
    assert server.http.get("/", headers=key | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert server.http.get("/v1/models", headers=key | {"Sec-Fetch-Site": "same-origin"}).status_code == 200
