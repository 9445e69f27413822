// What is asked for beside the messages, and the figures of an answer.

const CAUSAL = ["autoregressive", "speculative"];
const fields = "mode seed tokens temperature thinks shows system".split(" ");

export const settings = Object.fromEntries(fields.map((name) => [name, document.getElementById(name)]));

export function offer(modes, chosen) {
  settings.mode.replaceChildren(...modes.map((mode) => new Option(mode, mode, mode === chosen, mode === chosen)));
  const follow = () => {
    settings.temperature.disabled = !CAUSAL.includes(settings.mode.value);
  };
  settings.mode.addEventListener("change", follow);
  follow();
}

// The options that all requests share.
export function options() {
  const { mode, seed, tokens, temperature } = settings;
  return {
    ...(mode.value ? { mode: mode.value } : {}),
    seed: Number(seed.value),
    ...(tokens.value ? { max_tokens: Number(tokens.value) } : {}),
    ...(temperature.value && !temperature.disabled ? { temperature: Number(temperature.value) } : {}),
  };
}

// The body of a request for the next message.
export function request(messages) {
  const system = settings.system.value.trim();
  const told = messages.filter((one) => one.role === "user" || one.content);
  return {
    messages: [
      ...(system ? [{ role: "system", content: system }] : []),
      ...told.map(({ role, content }) => ({ role, content })),
    ],
    ...options(),
    ...(settings.thinks.checked ? { enable_thinking: true } : {}),
    ...(settings.shows.checked ? { x_diffusion_drafts: true } : {}),
    stream_options: { include_usage: true },
  };
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;

// Counts what a stream brings, and puts it into words.
export function figures() {
  const began = performance.now();
  let first, usage, steps = 0, reason;
  return {
    take(chunk) {
      const choice = chunk.choices[0];
      usage = chunk.usage ?? usage;
      reason = choice?.finish_reason ?? reason;
      if (choice?.delta.content || choice?.delta.reasoning_content) {
        first ??= performance.now() - began;
      }
      steps += choice?.delta["x-diffusion-draft"] ? 1 : 0;
    },
    text(seed) {
      const taken = performance.now() - began;
      const written = usage && `${usage.completion_tokens} tokens, ` +
        `${(usage.completion_tokens / taken * 1000).toFixed(0)} a second`;
      return [
        written,
        first !== undefined && `first text after ${seconds(first)}`,
        seconds(taken),
        steps && `${steps} steps`,
        `seed ${seed}`,
        reason === "length" && "ended by its bound",
      ].filter(Boolean).join(" · ");
    },
  };
}
