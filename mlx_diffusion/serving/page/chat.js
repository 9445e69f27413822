// The chat: messages, answers that come into focus, and what can be done about them.

import { CanvasView } from "./canvas.js";
import { onUse, setUsable } from "./controls.js";
import { Conversations, title } from "./conversations.js";
import { element, markdown } from "./markdown.js";
import { stream } from "./server.js";
import { figures, request, settings } from "./settings.js";

const by = (id) => document.getElementById(id);

function thoughtsOf(text, open) {
  return element("details", { className: "thoughts", open },
    element("summary", { textContent: "Thoughts" }), element("div", { textContent: text }));
}

// One message of the log; an answer can be shown again and again while it grows.
class MessageView {
  constructor(message, log) {
    this.message = message;
    this.element = element("article", { className: message.role });
    this.element.append(element("h2", { textContent: message.role === "user" ? "You" : "Model" }));
    this.canvas = new CanvasView();
    this.body = element("div");
    this.element.append(this.body);
    log.append(this.element);
    this.show();
  }

  show(live = false) {
    const { role, content, thoughts, figures: said, error } = this.message;
    if (role === "user") {
      this.body.textContent = content;
      return;
    }
    const open = this.body.querySelector(".thoughts")?.open ?? false;
    this.body.replaceChildren(...(thoughts ? [thoughtsOf(thoughts, open)] : []), ...markdown(content));
    if (live) {
      this.body.append(this.canvas.element);
    }
    if (error) {
      this.body.append(element("p", { className: "bad", textContent: error }));
    }
    if (said) {
      this.body.append(element("p", { className: "quiet small figures", textContent: said }));
    }
  }
}

export class Chat {
  constructor() {
    this.conversations = new Conversations(() => this.showList());
    this.log = by("log");
    by("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    by("message").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    onUse(by("stop"), () => this.stop());
    onUse(by("retry"), () => this.retry());
    by("new").addEventListener("click", () => this.begin());
    this.showAll();
  }

  begin() {
    this.stop();
    this.conversations.begin();
    this.showAll();
    by("message").focus();
  }

  open(id) {
    this.stop();
    this.conversations.open(id);
    this.showAll();
  }

  stop() {
    this.asking?.abort();
  }

  showAll() {
    const { messages } = this.conversations.current;
    this.showList();
    this.log.replaceChildren();
    for (const message of messages) {
      new MessageView(message, this.log);
    }
    by("empty").hidden = messages.length > 0;
    this.log.hidden = !messages.length;
    this.log.scrollTop = this.log.scrollHeight;
    this.setBusy(false);
  }

  showList() {
    const { all, current } = this.conversations;
    by("conversations").replaceChildren(...all.map((one) => this.entry(one, one.id === current.id)));
  }

  entry(conversation, isOpen) {
    const name = title(conversation);
    const open = element("button", { type: "button", textContent: name });
    open.setAttribute("aria-current", String(isOpen));
    open.addEventListener("click", () => this.open(conversation.id));
    const remove = element("button", { type: "button", textContent: "×" });
    remove.setAttribute("aria-label", `Delete: ${name}`);
    remove.addEventListener("click", () => {
      this.stop();
      this.conversations.remove(conversation.id);
      this.showAll();
      by("new").focus();
    });
    return element("li", {}, open, remove);
  }

  setBusy(busy) {
    setUsable(by("stop"), busy);
    setUsable(by("send"), !busy);
    setUsable(by("retry"), !busy && this.conversations.current.messages.at(-1)?.role === "assistant");
    this.log.setAttribute("aria-busy", String(busy));
  }

  send() {
    const box = by("message");
    const { messages } = this.conversations.current;
    if (this.asking || !box.value.trim()) {
      return;
    }
    const message = { role: "user", content: box.value };
    messages.push(message);
    new MessageView(message, this.log);
    box.value = "";
    this.answer();
  }

  // Ask again for the last answer, with the next seed.
  retry() {
    const { messages } = this.conversations.current;
    if (this.asking || messages.at(-1)?.role !== "assistant") {
      return;
    }
    messages.pop();
    this.log.lastElementChild.remove();
    settings.seed.value = String(Number(settings.seed.value) + 1);
    this.answer();
  }

  async answer() {
    const conversation = this.conversations.current;
    const asked = request(conversation.messages);
    const message = { role: "assistant", content: "", thoughts: "" };
    conversation.messages.push(message);
    const asking = new AbortController();
    this.asking = asking;
    this.conversations.keep(conversation);
    this.showAll();
    this.setBusy(true);
    const view = new MessageView(message, { append: (made) => this.log.lastElementChild.replaceWith(made) });
    by("status").textContent = "The model is writing.";
    const measured = figures();
    try {
      for await (const chunk of stream("v1/chat/completions", asked, asking.signal)) {
        measured.take(chunk);
        this.keepingEnd(() => this.take(chunk, message, view));
      }
      by("status").textContent = "The answer is complete.";
    } catch (error) {
      const stopped = asking.signal.aborted;
      message.error = stopped ? "Stopped." : `No answer: ${error.message}.`;
      by("status").textContent = message.error;
    }
    message.figures = measured.text(asked.seed);
    this.asking = undefined;
    if (this.conversations.has(conversation)) {
      this.conversations.keep(conversation);
      this.showList();
    }
    this.keepingEnd(() => view.show());
    this.setBusy(false);
  }

  // Change the log; where its end was in sight, it is afterwards.
  keepingEnd(change) {
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
    change();
    if (atEnd) {
      this.log.scrollTop = this.log.scrollHeight;
    }
  }

  take(chunk, message, view) {
    const delta = chunk.choices[0]?.delta ?? {};
    if (delta.content || delta.reasoning_content) {
      message.content += delta.content ?? "";
      message.thoughts += delta.reasoning_content ?? "";
      view.canvas.clear();
      view.show(true);
    }
    if (delta["x-diffusion-draft"]) {
      view.canvas.show(delta["x-diffusion-draft"]);
      if (!view.canvas.element.isConnected) {
        view.show(true);
      }
    }
  }
}
