// The tab for forms: a text with slots, what may stand in each, and what the model puts there.

import { onUse, setUsable } from "./controls.js";
import { element } from "./markdown.js";
import { post } from "./server.js";

const by = (id) => document.getElementById(id);
const KINDS = { text: "text", integer: "whole number", number: "number", boolean: "true or false", date: "date",
  choice: "one of several" };
const SLOT = /\{([\p{L}_][\p{L}\p{N}_]*)\}/gu;

// What may stand in one slot.
class SlotView {
  constructor(name) {
    this.name = name;
    this.kind = element("select", {}, ...Object.entries(KINDS).map(([kind, said]) => new Option(said, kind)));
    this.choices = element("input", { type: "text", placeholder: "choices, with commas" });
    this.answer = element("div", { className: "said" });
    const choices = element("label", {}, "Choices ", this.choices);
    this.element = element("fieldset", {}, element("legend", { textContent: name }),
      element("div", { className: "row" }, element("label", {}, "Kind ", this.kind), choices), this.answer);
    const follow = () => {
      choices.hidden = this.kind.value !== "choice";
    };
    this.kind.addEventListener("change", follow);
    follow();
  }

  get asked() {
    const choices = this.choices.value.split(",").map((one) => one.trim()).filter(Boolean);
    return this.kind.value === "choice" ? choices : this.kind.value;
  }

  show({ text, probability }) {
    const meter = element("meter", { value: probability, min: 0, max: 1 });
    meter.setAttribute("aria-label", `how sure: ${this.name}`);
    this.answer.replaceChildren(element("span", { textContent: text }), meter,
      element("span", { textContent: `${(100 * probability).toFixed(1)} %` }));
  }
}

export function setUpForms() {
  let views = [];
  let asking;

  // One view a slot of the text; those that stay keep what was chosen.
  function follow() {
    const names = [...new Set([...by("form-text").value.matchAll(SLOT)].map((found) => found[1]))];
    views = names.map((name) => views.find((view) => view.name === name) ?? new SlotView(name));
    by("slots").replaceChildren(...views.map((view) => view.element));
  }

  async function fill() {
    const status = by("form-status");
    if (asking) {
      return;
    }
    if (!views.length) {
      status.textContent = "The text has no slot yet; write one as {name}.";
      return;
    }
    asking = new AbortController();
    setUsable(by("fill-form"), false);
    status.textContent = "The model is filling the form.";
    const began = performance.now();
    try {
      const template = by("form-text").value;
      const slots = Object.fromEntries(views.map((view) => [view.name, view.asked]));
      const asked = { template, slots, context: by("form-context").value, seed: Number(by("form-seed").value) };
      const { filled } = await post("v1/forms", asked, asking.signal);
      views.forEach((view) => view.show(filled[view.name]));
      by("form-result").textContent = template.replace(SLOT, (whole, name) => filled[name]?.text ?? whole);
      status.textContent = `Filled in ${((performance.now() - began) / 1000).toFixed(2)} s.`;
    } catch (error) {
      status.textContent = asking.signal.aborted ? "Stopped." : `Not filled: ${error.message}.`;
    }
    asking = undefined;
    setUsable(by("fill-form"), true);
  }

  by("form-text").addEventListener("input", follow);
  onUse(by("fill-form"), fill);
  by("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      fill();
    }
  });
  follow();
  return { stop: () => asking?.abort() };
}
