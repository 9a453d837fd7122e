// The incidents, the latest first, each as its strongest alert. A row keeps its place, and new ones wait while the pointer or
// the focus is in the list, so that nothing moves under a click.
import { at, make, moment, ms, time } from "./dom.js";

const MOST = 100;
const SPEAK_MS = 10_000;
const list = at("list");
const incidents = new Map();  // id -> { peak, alerts, line }
let choose;
let waiting = [];
let paused = false;
let inside = false;
let unspoken = 0;
let spoke = 0;
let timer = 0;

export function find(partition, offset) {
  const all = [...waiting, ...[...incidents.values()].flatMap(it => it.alerts)];
  return all.find(a => a.partition === partition && a.offset === offset);
}

export function listen(chosen) {
  choose = chosen;
  at("pause").addEventListener("click", () => pause(!paused));
  at("held").addEventListener("click", () => { inside = false; pause(false); });
  for (const [event, state] of [["pointerenter", true], ["pointerleave", false], ["focusin", true], ["focusout", false]])
    list.addEventListener(event, () => { inside = state; release(); });
}

/** The strongest alert of the latest incident. */
export const latest = () => [...incidents.values()].at(-1)?.peak;

/** New alerts, the newest first; those of a new connection take the place of all that came before. */
export function add(alerts, anew) {
  waiting = (anew ? alerts : [...alerts, ...waiting]).slice(0, 2 * MOST);
  if (anew) {
    incidents.clear();
    list.replaceChildren();
    inside = false;
  } else if (alerts.length) speak(alerts);
  release();
}

export function current(alert) {
  for (const [id, { line }] of incidents)
    if (alert?.incident === id) line.firstChild.setAttribute("aria-current", "true"); else line.firstChild.removeAttribute("aria-current");
}

function pause(now) {
  paused = now;
  at("pause").setAttribute("aria-pressed", now);
  release();
}

function release() {
  if (!paused && !inside) {
    waiting.toReversed().forEach(take);
    waiting = [];
    for (const [id, { line }] of [...incidents].slice(0, -MOST)) { incidents.delete(id); line.remove(); }
  }
  at("held").hidden = waiting.length === 0;
  at("held").textContent = `Show ${waiting.length} new`;
  at("no-alerts").hidden = incidents.size > 0 || waiting.length > 0;
  at("no-alerts").textContent = "No alerts so far. They appear here as soon as they are durable.";
}

function take(alert) {
  let it = incidents.get(alert.incident);
  if (!it) {
    it = { peak: alert, alerts: [], line: row(alert.incident) };
    incidents.set(alert.incident, it);
    list.prepend(it.line);
  }
  it.alerts.push(alert);
  if (alert.score >= it.peak.score) it.peak = alert;
  const [stream, score, why, when, count] = it.line.firstChild.children;
  stream.textContent = it.peak.stream;
  score.textContent = it.peak.score.toFixed(1);
  why.textContent = it.peak.reasons.map(r => r.text).join("; ");
  when.textContent = time(ms(it.alerts[0]));
  when.title = moment(ms(it.alerts[0]));
  count.textContent = it.alerts.length > 1 ? `${it.alerts.length} alerts` : "";
}

function row(id) {
  const line = make("li");
  const button = make("button");
  button.append(...["stream", "score", "why", "when", "count"].map(name => make("span", name)));
  button.addEventListener("click", () => choose(incidents.get(id).peak));
  line.append(button);
  return line;
}

/** Tells a screen reader of new alerts, at most every ten seconds however many there are. */
function speak([last, ...others]) {
  unspoken += 1 + others.length;
  clearTimeout(timer);
  timer = setTimeout(() => {
    at("spoken").textContent = `${unspoken} new ${unspoken === 1 ? "alert" : "alerts"}, the last on ${last.stream}, score ${last.score.toFixed(1)}`;
    unspoken = 0;
    spoke = Date.now();
  }, Math.max(0, spoke + SPEAK_MS - Date.now()));
}
