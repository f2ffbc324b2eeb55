// Reads server-sent events of an answer: unlike an EventSource it posts, and knows why it was refused.

/** Calls `on(name, data)` with each event until the answer ends. Throws Refused, and TypeError where nobody answers. */
export async function follow(address, options, on) {
  const answer = await fetch(address, { ...options, credentials: "same-origin", cache: "no-store", redirect: "error" });
  if (!answer.ok || !(answer.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    throw new Refused(answer.status, await problem(answer));
  }
  let rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map(field));
      if (fields.event && fields.data) on(fields.event, JSON.parse(fields.data));
    }
  }
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function field(line) {
  const end = line.indexOf(": ");
  return [line.slice(0, end), line.slice(end + 2)];
}

async function problem(answer) {
  try {
    return (await answer.json()).message;
  } catch {
    return `the server answers ${answer.status}`;
  }
}
