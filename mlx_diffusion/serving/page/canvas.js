// A canvas that comes into focus: words that stay the same from step to step become sharp.

import { element } from "./markdown.js";

const SURE = 4; // steps in a row after which a word is shown sharply

export class CanvasView {
  constructor() {
    this.element = element("div", { className: "canvas" });
    this.element.setAttribute("aria-hidden", "true"); // screen readers hear the final text alone
    this.clear();
  }

  clear() {
    this.words = [];
    this.ages = [];
    this.element.replaceChildren();
  }

  // draft: {text, committed, block, step, entropy} as the server sends it.
  show(draft) {
    const words = draft.text.split(/(?<=\s)/);
    this.ages = words.map((word, place) => (word === this.words[place] ? (this.ages[place] ?? 0) + 1 : 0));
    this.words = words;
    const doubt = Math.min(1, 0.25 + draft.entropy);
    const spans = this.element.children;
    words.forEach((word, place) => {
      const span = spans[place] ?? this.element.appendChild(element("span"));
      if (span.textContent !== word) {
        span.textContent = word;
      }
      span.style.setProperty("--unsure", (doubt * Math.max(0, 1 - this.ages[place] / SURE)).toFixed(2));
    });
    while (spans.length > words.length) {
      spans[spans.length - 1].remove();
    }
  }
}
