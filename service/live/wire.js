// What the page asks for. An API key goes along in a header, so that no other page can make a browser use it, and is kept for
// this tab alone.
const PLACE = "tickwatch-key";
export const secured = "secured" in document.documentElement.dataset;
export const key = () => sessionStorage.getItem(PLACE) ?? "";
export const keep = text => text ? sessionStorage.setItem(PLACE, text) : sessionStorage.removeItem(PLACE);

/** What the service refuses, in its words; `locked` when it is the key. */
class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.locked = status === 401 || status === 403;
  }
}

async function request(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: key() ? { Authorization: `Bearer ${key()}` } : {} });
  if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).detail ?? `status ${answer.status}`);
  return answer;
}

export const ask = async (path, parameters = {}) => (await request(`${path}?${new URLSearchParams(parameters)}`)).json();

/** Server-Sent Events by their names, until the connection ends; an EventSource could not send the key. */
export async function listen(path, signal, hear) {
  const answer = await request(path, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n").map(line => line.slice(line.indexOf(": ") + 2));
      hear[name](JSON.parse(data));
    }
  }
}
