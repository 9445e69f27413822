// Asks the server that this page came from; knows nothing of what is shown.

const KEY = "mlx-diffusion-key";
const GONE = "the server cannot be reached; see whether it still runs";
const BROKEN = "the connection broke off before the answer's end";

const by = (id) => document.getElementById(id);
let asking; // for the key; requests that need it wait for the same answer

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

// Ask for the key in the page's dialog; the key is forgotten with the browser's tab. Throws where none is given.
function askKey() {
  const [dialog, box] = [by("key-dialog"), by("key")];
  by("key-wrong").hidden = !sessionStorage.getItem(KEY);
  by("no-key").onclick = () => dialog.close();
  box.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done, fail) => {
    dialog.addEventListener("close", () => {
      asking = undefined;
      if (dialog.returnValue && box.value) {
        sessionStorage.setItem(KEY, box.value);
        done();
      } else {
        sessionStorage.removeItem(KEY);
        fail(new Error("the server asks for a key, and none was given"));
      }
    }, { once: true });
  });
}

// What a request comes to; in words of this page where the network fails, and as it is where it was stopped.
async function reach(work, signal, said) {
  try {
    return await work;
  } catch (error) {
    throw signal?.aborted ? error : new Error(said);
  }
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
    const sent = fetch(path, { ...options, headers: headers(), cache: "no-store" });
    const response = await reach(sent, options.signal, GONE);
    if (response.status === 401) {
      await (asking ??= askKey());
    } else if (!response.ok) {
      throw await refused(response);
    } else {
      return response;
    }
  }
}

export async function get(path) {
  return reach((await ask(path, {})).json(), undefined, BROKEN);
}

export async function post(path, body, signal) {
  const response = await ask(path, { method: "POST", body: JSON.stringify(body), signal });
  return reach(response.json(), signal, BROKEN);
}

// The chunks of a stream as they come, in whatever parts the network brings them.
export async function* stream(path, body, signal) {
  const response = await ask(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reach(reader.read(), signal, BROKEN);
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
        throw new Error(BROKEN);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
