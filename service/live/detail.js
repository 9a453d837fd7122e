// One stream: around an alert, or live. Its ticks are asked for once a second, never sent unasked.
import { at, make, moment, ms, number, time } from "./dom.js";
import { chart, framed } from "./charts.js";
import * as peer from "./peer.js";
import { apart, dots, pair, priced, scored, spread, step, units } from "./series.js";
import { ask } from "./wire.js";

const ASK_MS = 1000;
const ROWS = 50;
const ENOUGH_AFTER = 150;
let threshold = 0;
let chosen = null;
let charts = [];
let drawn = "";
let trace = null;
let theirs = new Map();  // scores of the other model
let timer = 0;

export const configure = status => { threshold = status.threshold; };
export const shows = () => chosen;

const live = () => chosen.stream !== undefined && chosen.at === undefined;

/**
 * Shows `{ stream }`, a stream at a time in milliseconds as `{ stream, at }`, or `{ alert, partition, offset }` where the alert
 * may be unknown. Unless somebody `asked` for it, focus and page stay where they are.
 */
export function show(what, asked = true) {
  chosen = what;
  clear();
  const name = what.stream ?? what.alert?.stream ?? `offset ${what.offset}`;
  at("detail-title").textContent = name;
  say(`Loading ${name} …`);
  if (asked) at("detail-title").focus({ preventScroll: true });
  if (asked) at("detail").setAttribute("aria-busy", "true");
  if (asked) at("detail").scrollIntoView({ block: matchMedia("(max-width: 62rem)").matches ? "start" : "nearest" });
  reasons(what.alert);
  load();
}

export function forget() {
  chosen = null;
  clear();
  at("detail-title").textContent = "No stream chosen";
  say("Choose an alert or a square of the heat map, or find a stream by name.");
}

function clear() {
  clearTimeout(timer);
  charts.forEach(it => it.remove());
  charts = [];
  drawn = "";
  trace = null;
  at("charts").replaceChildren();
  at("reasons").replaceChildren();
  at("numbers").hidden = at("follow").hidden = true;
}

const say = text => { if (at("about").textContent !== text) at("about").textContent = text; };

function reasons(alert) {
  at("reasons").replaceChildren(...(alert?.reasons ?? []).map(reason => {
    const line = make("li");
    line.append(make("b", "", reason.score.toFixed(1)), reason.text);
    return line;
  }));
}

async function load() {
  const asked = chosen;
  let again = true;
  try {
    if (document.hidden && trace) return;
    const features = (trace?.courses ?? asked.alert?.reasons ?? []).map(it => it.feature).join(",");  // those once chosen stay
    const { partition, offset, stream, at: when } = asked;
    const [path, parameters] = stream === undefined ? ["alert.json", { partition, offset }] : ["stream.json", { name: stream, ...(when && { at: when }) }];
    const [found, also] = await Promise.all([ask(path, { ...parameters, features }), peer.trace(path, parameters)]);
    if (chosen !== asked) return;
    if (found) {
      trace = found;
      theirs = new Map(also && keyed(also.time_ms).map((key, i) => [key, also.score[i]]));
      draw();
    } else if (!trace) say(live() ? "No tick of this stream is kept in memory; waiting for its next one." : "The ticks around this alert are no longer kept in memory.");
    again = live() || peer.awaited() || (found && (after() < ENOUGH_AFTER || (peer.other() && theirs.size < trace.offset.length)));
  } catch (error) {
    if (chosen === asked) say(`This did not load (${error.message}); trying again.`);
  } finally {
    at("detail").setAttribute("aria-busy", "false");
    if (chosen === asked && again) timer = setTimeout(load, ASK_MS);
  }
}

/** A key for each tick that two models share: its time and, of ticks of one time, its number; their offsets may differ. */
function keyed(times) {
  let n = 0;
  return times.map((t, i) => `${t} ${n = t === times[i - 1] ? n + 1 : 0}`);
}

/** Where the chosen tick is in the trace, -1 if there is none. */
function place() {
  if (!chosen.stream) return trace.offset.indexOf(chosen.offset);
  if (live()) return -1;
  const apart = trace.time_ms.map(t => Math.abs(t - chosen.at));
  return apart.indexOf(Math.min(...apart));
}

const after = () => trace.offset.length - 1 - place();

function about() {
  const n = trace.offset.length;
  if (live()) return `Live, the last ${n} ${n === 1 ? "tick" : "ticks"} in memory.`;
  const alert = chosen.alert;
  const around = `${place()} ticks before, ${after()} after`;
  return alert ? `${moment(ms(alert))}, incident ${alert.phase}, score ${alert.score.toFixed(1)} over ${alert.threshold.toFixed(2)}; ${around}.` : `${around}.`;
}

const marks = () => {
  const i = trace && chosen ? place() : -1;
  return i < 0 ? [] : [trace.time_ms[i] / 1e3];
};

function columns() {
  const x = trace.time_ms.map(t => t / 1e3);
  return [
    [x, trace.bid, trace.ask, apart(trace)],
    ...models().map(it => [x, it.score, x.map(() => it.threshold), it.score.map(score => score >= it.threshold ? score : null)]),
    ...trace.courses.map(course => [x, course.observed, course.expected]),
  ];
}

/** The models whose scores are drawn: this worker's, and the one it is compared with if there is one. */
function models() {
  const own = { of: "", threshold, score: trace.score };
  const other = peer.other();
  return other ? [own, { of: ` of ${other.model}`, threshold: other.threshold, score: keyed(trace.time_ms).map(key => theirs.get(key) ?? null) }] : [own];
}

function scores({ of, threshold: over }, data, bare) {
  return chart(framed(at("charts"), `score${of}: 4 is one tick in 10,000; dashed is the threshold`), 110, data,
    scored("score", "over it", 7),
    { sync: "stream", marks, bare, scales: { y: { range: (_, low, high) => [0, Math.max(high, over) * 1.1] } } });
}

function draw() {
  at("detail-title").textContent = trace.stream;
  say(about());
  at("follow").hidden = live();
  at("numbers").hidden = false;
  if (at("numbers").open) table();
  const shape = [peer.other()?.model, ...trace.courses.map(c => c.feature)].join();
  const data = columns();
  if (shape === drawn) { charts.forEach((it, i) => it.update(data[i])); return; }
  charts.forEach(it => it.remove());
  at("charts").replaceChildren();
  const frame = title => framed(at("charts"), title);
  const price = priced(trace);
  const shared = i => ({ sync: "stream", marks, bare: i < data.length - 1 });
  charts = [
    chart(frame("price with bid and ask"), 190, data[0], [step("bid", "bid", price), step("ask", "ask", price), dots("price", "price", 4, price)], { ...shared(0), bands: spread }),
    ...models().map((it, i) => scores(it, data[1 + i], shared(1 + i).bare)),
    ...trace.courses.map((course, k) => {
      const i = data.length - trace.courses.length + k;
      return chart(frame(course.title), 110, data[i], pair(course), { ...shared(i), ...units(course.feature) });
    }),
  ];
  drawn = shape;
}

function table() {
  const centre = live() ? trace.offset.length : Math.max(0, place()) + ROWS / 2;
  const end = Math.min(trace.offset.length, centre);
  const price = priced(trace);
  at("rows").replaceChildren(...Array.from({ length: Math.min(end, ROWS) }, (_, k) => end - 1 - k).map(i => {
    const line = make("tr", trace.score[i] >= threshold ? "over" : "");
    const cells = [time(trace.time_ms[i]), ...["price", "bid", "ask"].map(c => price(trace[c][i])), number(trace.size[i]), trace.score[i].toFixed(2)];
    line.append(...cells.map(text => make("td", "", text)));
    return line;
  }));
}

at("numbers").addEventListener("toggle", () => { if (at("numbers").open && trace) table(); });
