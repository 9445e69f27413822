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
  // changed: called when another tab of the browser has kept or removed one.
  constructor(changed) {
    this.all = read();
    this.begin();
    addEventListener("storage", (event) => {
      if (event.key === PLACE) {
        this.follow();
        changed();
      }
    });
  }

  // Go on with an empty conversation, which is kept once it has messages.
  begin() {
    this.current = { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), messages: [] };
  }

  open(id) {
    this.current = this.all.find((one) => one.id === id) ?? this.current;
  }

  remove(id) {
    this.all = read().filter((one) => one.id !== id);
    if (this.current.id === id) {
      this.begin();
    }
    this.write();
  }

  // Keep a conversation as it stands, ahead of all that there are by now: other tabs of the browser keep theirs, too.
  keep(conversation) {
    this.all = [conversation, ...read().filter((one) => one.id !== conversation.id)].slice(0, MOST);
    this.write();
  }

  // Whether a conversation is still there; another tab may have removed it.
  has(conversation) {
    return read().some((one) => one.id === conversation.id);
  }

  // Take in what other tabs have kept; the conversation at hand stays as it is here.
  follow() {
    this.all = read().map((one) => (one.id === this.current.id ? this.current : one));
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
