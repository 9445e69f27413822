// Conversations, kept in this browser alone.

const PLACE = "mlx-diffusion-conversations";
const MOST = 100;

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE));
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

// Conversations as {id, messages: [{role, content, thoughts, figures}]}, the latest first.
export class Conversations {
  constructor() {
    this.all = read();
    this.begin();
  }

  // Go on with an empty conversation, which is kept once it has messages.
  begin() {
    this.current = { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), messages: [] };
  }

  open(id) {
    this.current = this.all.find((one) => one.id === id) ?? this.current;
  }

  remove(id) {
    this.all = this.all.filter((one) => one.id !== id);
    if (this.current.id === id) {
      this.begin();
    }
    this.write();
  }

  keep() {
    this.all = [this.current, ...this.all.filter((one) => one !== this.current)].slice(0, MOST);
    this.write();
  }

  // Where the browser's room is full, the oldest conversations go.
  write() {
    for (let kept = this.all; ; kept = kept.slice(0, -1)) {
      try {
        localStorage.setItem(PLACE, JSON.stringify(kept));
        return;
      } catch {
        if (!kept.length) {
          return;
        }
      }
    }
  }
}

export function title(conversation) {
  return conversation.messages[0]?.content.split("\n")[0].slice(0, 60) || "Conversation";
}
