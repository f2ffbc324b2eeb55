// Asks a model and shows the answer as it grows; what comes becomes text, and never HTML.
import { follow } from "./events.js";

const form = document.getElementById("play");
const told = document.getElementById("told");
const answer = document.getElementById("answer");
const reasoning = document.getElementById("reasoning");
const thinking = document.getElementById("thinking");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
let asking = null;

function question() {
  const given = Object.fromEntries(new FormData(form));
  const messages = [{ role: "user", content: given.prompt }];
  if (given.system) messages.unshift({ role: "system", content: given.system });
  const parameters = { max_tokens: Number(given.tokens), temperature: Number(given.temperature) };
  const named = form.dataset.namespace ? { namespace: form.dataset.namespace } : {};
  return { model: given.model, messages, parameters, ...named };
}

function on(name, data) {
  if (name === "waiting") {
    const ahead = data.ahead ? `, ${data.ahead} ahead` : "";
    told.textContent = `Waiting: ${data.message || data.reason}${ahead}`;
  } else if (name === "delta") {
    if (!answer.textContent && !reasoning.textContent) told.textContent = "Answering…";
    answer.append(data.text);
    if (data.reasoning) {
      thinking.hidden = false;
      reasoning.append(data.reasoning);
    }
  } else if (name === "end") {
    if (answer.textContent !== data.text) answer.textContent = data.text;
    told.textContent = summary(data);
  } else if (name === "error") {
    told.textContent = `It failed: ${data.message}`;
  }
}

function summary({ usage, timings, finish_reason: reason, model }) {
  const seconds = (timings.generation_millis - timings.first_token_millis) / 1000;
  const speed = seconds > 0 ? `, ${Math.round(usage.completion_tokens / seconds)} per second` : "";
  const first = timings.queued_millis + timings.first_token_millis;
  return `${model}: ${usage.completion_tokens} tokens${speed}; the first after ${first} ms; ended by ${reason}.`;
}

form.addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  if (asking) return;
  asking = new AbortController();
  send.disabled = true;
  stop.disabled = false;
  // Read aloud when it is whole, and not in syllables.
  answer.setAttribute("aria-busy", "true");
  answer.replaceChildren();
  reasoning.replaceChildren();
  thinking.hidden = true;
  told.textContent = "Asked…";
  try {
    const headers = { "Content-Type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify(question()), signal: asking.signal };
    await follow("/ui/playground/stream", options, on);
  } catch (error) {
    told.textContent = asking.signal.aborted ? "Stopped." : `It failed: ${error.message}`;
  }
  answer.setAttribute("aria-busy", "false");
  const focused = document.activeElement === stop;
  asking = null;
  send.disabled = false;
  stop.disabled = true;
  if (focused) send.focus();
});
stop.addEventListener("click", () => asking?.abort());
// Before, the form would go to the address, and the prompt into the browser's history.
send.disabled = false;
document.getElementById("prompt").addEventListener("keydown", (pressed) => {
  if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) {
    pressed.preventDefault();
    form.requestSubmit();
  }
});
