// The tab for gaps: what is missing at the cursor, or in place of what is marked.

import { onUse, setUsable } from "./controls.js";
import { post } from "./server.js";

const by = (id) => document.getElementById(id);

export function setUpFilling() {
  const box = by("gapped");
  let asking, last;

  function setBusy(busy) {
    setUsable(by("fill-in"), !busy);
    setUsable(by("other"), !busy && Boolean(last));
    setUsable(by("undo"), !busy && Boolean(last));
  }

  // Fill the gap between two places of a text.
  async function fill(text, start, end) {
    if (asking) {
      return;
    }
    asking = new AbortController();
    setBusy(true);
    by("fill-status").textContent = "The model is filling in.";
    const seed = Number(by("fill-seed").value);
    const beside = by("beside").value.trim();
    const asked = {
      input_prefix: text.slice(0, start),
      input_suffix: text.slice(end),
      seed,
      ...(beside ? { input_extra: [{ text: beside }] } : {}),
    };
    const began = performance.now();
    try {
      const { content, tokens_predicted: count } = await post("infill", asked, asking.signal);
      last = { text, start, end };
      box.value = text.slice(0, start) + content + text.slice(end);
      box.focus();
      box.setSelectionRange(start, start + content.length);
      const taken = ((performance.now() - began) / 1000).toFixed(2);
      by("fill-status").textContent = content
        ? `Filled in: ${content} · ${count} ${count === 1 ? "token" : "tokens"} · ${taken} s · seed ${seed}`
        : `The model finds that nothing is missing there · ${taken} s · seed ${seed}`;
    } catch (error) {
      by("fill-status").textContent = asking.signal.aborted ? "Stopped." : `Not filled in: ${error.message}.`;
    }
    asking = undefined;
    setBusy(false);
  }

  const fillAtCursor = () => fill(box.value, box.selectionStart, box.selectionEnd);
  onUse(by("fill-in"), fillAtCursor);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      fillAtCursor();
    }
  });
  onUse(by("other"), () => {
    by("fill-seed").value = String(Number(by("fill-seed").value) + 1);
    fill(last.text, last.start, last.end);
  });
  onUse(by("undo"), () => {
    box.value = last.text;
    box.focus();
    box.setSelectionRange(last.start, last.end);
    last = undefined;
    setBusy(false);
  });
  setBusy(false);
  return { stop: () => asking?.abort() };
}
