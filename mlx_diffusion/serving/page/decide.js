// The tab for decisions: questions about a text, and what is said of each answer.

import { onUse, setUsable } from "./controls.js";
import { element } from "./markdown.js";
import { post } from "./server.js";

const by = (id) => document.getElementById(id);
const TYPES = { noul: "yes or no", choice: "one of several", score: "how much" };
const HINTS = { choice: "answers, with commas", score: "levels from the lowest on, with commas" };

// One question: its fields, and below them its answer.
class QuestionView {
  constructor(number, remove) {
    this.type = element("select", {}, ...Object.entries(TYPES).map(([name, said]) => new Option(said, name)));
    this.text = element("input", { type: "text" });
    this.criteria = element("input", { type: "text" });
    this.answer = element("div", { className: "said" });
    const others = element("label", {}, "Answers ", this.criteria);
    const drop = element("button", { type: "button", textContent: "Remove" });
    this.element = element("fieldset", {}, element("legend", { textContent: `Question ${number}` }),
      element("div", { className: "row" }, element("label", {}, "Question ", this.text),
        element("label", {}, "Kind ", this.type), others, drop), this.answer);
    drop.setAttribute("aria-label", `Remove question ${number}`);
    drop.addEventListener("click", () => {
      this.element.remove();
      remove(this);
    });
    const follow = () => {
      others.hidden = this.type.value === "noul";
      this.criteria.placeholder = HINTS[this.type.value] ?? "";
    };
    this.type.addEventListener("change", follow);
    follow();
  }

  get asked() {
    const criteria = this.criteria.value.split(",").map((one) => one.trim()).filter(Boolean);
    return {
      type: this.type.value,
      instructions: this.text.value,
      ...(this.type.value === "noul" ? {} : { criteria }),
    };
  }

  show(answer) {
    const said = answer.type === "noul" ? { yes: answer.noul, no: 1 - answer.noul } : answer.probabilities;
    this.answer.replaceChildren(...Object.entries(said).flatMap(([name, share]) => {
      const label = answer.legend?.[name] ?? name;
      const meter = element("meter", { value: share, min: 0, max: 1 });
      meter.setAttribute("aria-label", label);
      return [element("span", { textContent: label }), meter,
        element("span", { textContent: `${(100 * share).toFixed(1)} %` })];
    }));
  }
}

export function setUpDecisions() {
  let views = [];
  let made = 0;
  let asking;

  function add() {
    made += 1;
    const view = new QuestionView(made, (gone) => {
      views = views.filter((one) => one !== gone);
      by("more").focus();
    });
    views.push(view);
    by("questions").append(view.element);
    return view;
  }

  async function ask() {
    const status = by("decide-status");
    if (asking) {
      return;
    }
    if (!views.length) {
      status.textContent = "There is no question yet; add one.";
      return;
    }
    asking = new AbortController();
    setUsable(by("ask"), false);
    status.textContent = "The model is deciding.";
    const began = performance.now();
    try {
      const questions = Object.fromEntries(views.map((view, number) => [`question ${number + 1}`, view.asked]));
      const { answers } = await post("v1/systemone", { state: by("state").value, questions }, asking.signal);
      views.forEach((view, number) => view.show(answers[`question ${number + 1}`]));
      status.textContent = `Decided in ${((performance.now() - began) / 1000).toFixed(2)} s.`;
    } catch (error) {
      status.textContent = asking.signal.aborted ? "Stopped." : `Not decided: ${error.message}.`;
    }
    asking = undefined;
    setUsable(by("ask"), true);
  }

  by("more").addEventListener("click", () => add().text.focus());
  onUse(by("ask"), ask);
  by("decide").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });
  add();
  return { stop: () => asking?.abort() };
}
