// Sets the page up: its tabs, its keys, and what the server has.

import { Chat } from "./chat.js";
import { setUpDecisions } from "./decide.js";
import { setUpFilling } from "./fill.js";
import { setUpForms } from "./form.js";
import { element } from "./markdown.js";
import { get } from "./server.js";
import { offer } from "./settings.js";

const tabs = [...document.querySelectorAll('[role="tab"]')];

function choose(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
  }
}

function setUpTabs() {
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        const next = tabs[(place + step + tabs.length) % tabs.length];
        choose(next);
        next.focus();
      }
    });
  });
  choose(tabs[0]);
}

async function showFacts() {
  const place = document.getElementById("model");
  try {
    const facts = await get("facts");
    place.textContent = facts.model;
    place.className = "quiet";
    offer(facts.modes, facts.mode);
  } catch (error) {
    const again = element("button", { type: "button", textContent: "Try again" });
    again.addEventListener("click", showFacts);
    place.replaceChildren(`Not ready: ${error.message}. `, again);
    place.className = "bad";
  }
}

setUpTabs();
const chat = new Chat();
const others = [setUpFilling(), setUpForms(), setUpDecisions()];
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    chat.stop();
    others.forEach((one) => one.stop());
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    chat.begin();
  }
});
showFacts();
document.getElementById("message").focus();
