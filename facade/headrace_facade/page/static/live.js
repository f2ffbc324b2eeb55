// Keeps a page's tables and texts as the server tells them. What it tells becomes text nodes, and never HTML.
import { follow, Refused } from "./events.js";

const AGAIN_MS = 3000;
const ADDRESS = document.getElementById("follow").dataset.events;
const sign = document.getElementById("live");
const pause = document.getElementById("pause");
const known = new WeakMap();
let over = false;
let listening = null;

function tell(words, tone) {
  if (sign.textContent !== words) sign.textContent = words;
  sign.dataset.tone = tone;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function draw(place, cell) {
  const told = JSON.stringify(cell);
  if (known.get(place) === told) return;
  known.set(place, told);
  const parts = [];
  if (cell.href.startsWith("/ui/")) parts.push(element("a", cell.text, { href: cell.href }));
  else if (cell.tone) parts.push(element("span", cell.text, { class: "pill", "data-tone": cell.tone }));
  else parts.push(element("span", cell.text));
  if (cell.share !== null) {
    const bounds = { min: 0, max: 1, low: 0.8, high: 0.95, optimum: 0, value: cell.share, "aria-label": "Share" };
    parts.push(element("meter", "", bounds));
  }
  if (cell.note) parts.push(element("small", cell.note));
  // A link that has the focus keeps it.
  const focused = place.contains(document.activeElement);
  place.replaceChildren(...parts);
  if (focused) place.querySelector("a")?.focus();
}

function row(key, heads) {
  const made = element("tr", "", { role: "row", "data-key": key });
  heads.forEach((head, place) => {
    const attributes = place
      ? { role: "cell", "data-label": head.textContent }
      : { role: "rowheader", scope: "row" };
    if (head.classList.contains("number")) attributes.class = "number";
    made.append(element(place ? "td" : "th", "", attributes));
  });
  return made;
}

function fill(name, { rows, empty }) {
  const table = document.getElementById(name);
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const old = new Map([...body.rows].map((each) => [each.dataset.key, each]));
  rows.forEach(({ key, cells }, place) => {
    const each = old.get(key) ?? row(key, heads);
    old.delete(key);
    cells.forEach((cell, column) => draw(each.cells[column], cell));
    if (body.rows[place] !== each) body.insertBefore(each, body.rows[place] ?? null);
  });
  for (const gone of old.values()) gone.remove();
  table.hidden = rows.length === 0;
  show(`${name}-empty`, rows.length ? "" : empty);
}

function show(name, words) {
  const place = document.getElementById(name);
  if (words && place.textContent !== words) place.textContent = words;
  place.hidden = !words;
}

function on(name, data) {
  if (name === "state") {
    for (const [each, table] of Object.entries(data.tables)) fill(each, table);
    for (const [each, words] of Object.entries(data.texts)) show(each, words);
    tell("Live", "ok");
  } else if (name === "over") {
    over = true;
  } else if (name === "refused") {
    throw new Refused(data.status, data.message);
  }
}

async function listen(signal) {
  while (!signal.aborted) {
    try {
      await follow(ADDRESS, { signal }, on);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.status < 500 && error.status !== 429) {
        over = true;
        const signedOut = error.status === 401;
        tell(signedOut ? "Signed out: reload the page to sign in." : `Updates have ended: ${error.message}`, "bad");
        return;
      }
      tell("Not live: trying again", "warn");
    }
    if (over) {
      tell("Ended: nothing changes any more", "idle");
      pause.hidden = true;
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function begin() {
  if (over || listening || document.hidden || pause.getAttribute("aria-pressed") === "true") return;
  listening = new AbortController();
  listen(listening.signal);
}

function end() {
  listening?.abort();
  listening = null;
}

pause.addEventListener("click", () => {
  const paused = pause.getAttribute("aria-pressed") !== "true";
  pause.setAttribute("aria-pressed", String(paused));
  if (paused) {
    end();
    tell("Paused", "idle");
  } else {
    begin();
  }
});
// A page that nobody sees asks nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? end() : begin()));
addEventListener("pagehide", end);
addEventListener("pageshow", begin);
begin();
