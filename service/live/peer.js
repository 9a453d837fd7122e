// Another model on the same ticks: what both saw, what one alone saw, and its scores beside ours.
import { at, make, time } from "./dom.js";
import { ask } from "./wire.js";

const ASK_MS = 2000;
let there = false;
let compared = null;
let status = null;
let timer = 0;
let choose;

export const other = () => compared?.status;
export const awaited = () => there && !compared;
export const configure = mine => { status = mine; };

/** Their ticks of what is shown, null where there is no other worker or it keeps none. */
export const trace = (path, parameters) => there ? ask(`peer/${path}`, parameters).catch(() => null) : null;

export function watch(configured, chosen) {
  there = configured;
  choose = chosen;
  clearTimeout(timer);
  at("peer").hidden = !there;
  if (there) look();
}

async function look() {
  try {
    if (!document.hidden) {
      compared = await ask("peer.json");
      if (status) draw();
    }
  } catch (error) {
    compared = null;
    at("agreement").textContent = `${error.message}; trying again.`;
  }
  timer = setTimeout(look, ASK_MS);
}

function draw() {
  const { both, ours, theirs, incidents } = compared;
  const all = both + ours + theirs;
  at("agreement").textContent = all ? `Of ${all} recent ${all === 1 ? "incident" : "incidents"} both saw ${both}.` : "No incident that both could have seen yet.";
  at("models").replaceChildren(...[[status, ours], [compared.status, theirs]].map(([it, alone]) => row(
    it.model, it.threshold.toFixed(2), it.ticks.toLocaleString("en"), it.ticks ? (it.alerts / it.ticks * 1e5).toFixed(1) : "–", alone)));
  [at("ours").textContent, at("theirs").textContent] = [status.model, compared.status.model];
  if (at("incidents").contains(document.activeElement)) return;  // nothing moves under a key
  at("incidents").replaceChildren(...incidents.map(it => {
    const link = make("button", "", it.stream);
    link.addEventListener("click", () => choose(it));
    const score = value => value === null ? "not seen" : value.toFixed(1);
    return row(time(it.ts / 1e6), link, score(it.ours), score(it.theirs));
  }));
}

function row(...cells) {
  const line = make("tr");
  line.append(...cells.map(cell => {
    const place = make("td");
    place.append(cell);
    return place;
  }));
  return line;
}
