// Asks the server that this page came from; knows nothing of what is shown.

const KEY = "mlx-diffusion-key";

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

// Ask for the key in the page's dialog; the key is forgotten with the browser's tab.
function askKey() {
  const dialog = document.getElementById("key-dialog");
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, document.getElementById("key").value);
      done();
    }, { once: true });
  });
}

async function refused(response) {
  try {
    return new Error((await response.json()).error.message);
  } catch {
    return new Error(`the server answered with status ${response.status}`);
  }
}

async function ask(path, options) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: headers(), cache: "no-store" });
    if (response.status === 401) {
      await askKey();
    } else if (!response.ok) {
      throw await refused(response);
    } else {
      return response;
    }
  }
}

export async function get(path) {
  return (await ask(path, {})).json();
}

export async function post(path, body, signal) {
  return (await ask(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

// The chunks of a stream as they come, in whatever parts the network brings them.
export async function* stream(path, body, signal) {
  const response = await ask(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      waiting += decoder.decode(value, { stream: !done });
      const events = waiting.split("\n\n");
      waiting = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") {
          return;
        }
        const chunk = JSON.parse(data);
        if (chunk.error) {
          throw new Error(chunk.error.message);
        }
        yield chunk;
      }
      if (done) {
        throw new Error("the connection broke off before the answer's end");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
