// A report: what the file holds as tables and pictures. Text enters it through textContent alone.
import { at, make, moment, number } from "./dom.js";
import { chart, framed } from "./charts.js";
import { apart, dots, pair, priced, scored, spread, step, units } from "./series.js";

const sheet = JSON.parse(at("data").textContent);
const whole = new Intl.NumberFormat("en");
const rate = (alerts, ticks) => ticks ? alerts / ticks * 1e5 : 0;
const DAY = 86_400_000;
let drawn = [];

function counts() {
  const told = [["ticks", whole.format(sheet.ticks)], ["streams", whole.format(sheet.count)], ["alerts", whole.format(sheet.alerts)],
    ["alerts in 100,000", number(+rate(sheet.alerts, sheet.ticks).toFixed(1))], ["alert budget", sheet.alert_budget === null ? "–" : number(sheet.alert_budget)],
    ["threshold", sheet.threshold.toFixed(2)], ["rejected", whole.format(sheet.rejected)]];
  at("numbers").append(...told.map(([name, value]) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", value));
    return pair;
  }));
}

function course() {
  const { step: size, time_ms, best, alerts } = sheet.course;
  const x = best.map((_, i) => i * size);
  const when = tick => time_ms[Math.min(time_ms.length - 1, Math.max(0, Math.round(tick / size)))];
  const long = time_ms.length > 1 && Math.max(...time_ms) - Math.min(...time_ms) > DAY;
  const label = tick => { const text = new Date(when(tick)).toISOString(); return long ? text.slice(5, 16).replace("T", " ") : text.slice(11, 16); };
  const places = { label: "from", value: (_, tick) => tick === null ? "–" : moment(when(tick)), values: (_, ticks) => ticks.map(label), space: 90 };
  const over = best.map((score, i) => alerts[i] ? score : null);
  const data = [x, best, x.map(() => sheet.threshold), over];
  const scales = { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high, sheet.threshold) * 1.1] } };
  chart(framed(at("course"), `highest score of every ${whole.format(size)} ticks, in their order; dashed is the threshold`), 150, data, scored("highest score", "with an alert", 6), { places, scales });
}

function incident(it) {
  const line = make("li");
  const row = make(it.trace === null ? "div" : "button", it.trace === null ? "plain" : "");
  const lasted = it.until_ms - it.time_ms;
  row.append(make("span", "stream", it.stream), make("span", "score", it.score.toFixed(1)),
    make("span", "why", it.reasons.map(([, text]) => text).join("; ")),
    make("span", "when", moment(it.time_ms).slice(0, 19) + (lasted >= 1000 ? `, ${whole.format(Math.round(lasted / 1000))} s` : "")),
    make("span", "count", it.alerts > 1 ? `${it.alerts} alerts` : ""));
  if (it.trace !== null) row.addEventListener("click", () => show(it, row, true));
  line.append(row);
  return line;
}

function show(it, row, moved) {
  document.querySelectorAll("#list [aria-current]").forEach(other => other.removeAttribute("aria-current"));
  row?.setAttribute("aria-current", "true");
  const trace = sheet.traces[it.trace];
  const peak = trace.offset.indexOf(it.place);
  at("detail-title").textContent = it.stream;
  at("about").textContent = peak < 0 ? `${moment(trace.time_ms[0])} to ${moment(trace.time_ms.at(-1))}, ${whole.format(trace.offset.length)} ticks.`
    : `${moment(trace.time_ms[peak])}, score ${it.score.toFixed(1)} over ${sheet.threshold.toFixed(2)}; ${peak} ticks before, ${trace.offset.length - peak - 1} after.`;
  at("reasons").replaceChildren(...it.reasons.map(([score, text]) => {
    const line = make("li");
    line.append(make("b", "", score.toFixed(1)), text);
    return line;
  }));
  pictures(trace, peak < 0 ? [] : [it.place]);
  if (!moved) return;
  at("detail-title").focus({ preventScroll: true });
  at("detail").scrollIntoView({ block: matchMedia("(max-width: 62rem)").matches ? "start" : "nearest" });
}

/** Ticks stand side by side, however long the pauses between them; the axis tells their times. */
function clocked({ offset, time_ms }) {
  const when = tick => new Date(time_ms[Math.min(time_ms.length - 1, Math.max(0, Math.round(tick - offset[0])))]).toISOString();
  const close = time_ms.at(-1) - time_ms[0] < 10_000;
  return { label: "time", value: (_, tick) => tick === null ? "–" : when(tick).slice(11, 23), values: (_, ticks) => ticks.map(tick => when(tick).slice(11, close ? 23 : 19)), space: 90 };
}

const quoted = trace => trace.bid.some(v => v !== null) || trace.ask.some(v => v !== null);

function pictures(trace, marked) {
  drawn.forEach(it => it.remove());
  at("charts").replaceChildren();
  const last = trace.courses.length - 1;
  const shared = { sync: "stream", marks: () => marked, places: clocked(trace), scales: { x: { time: false } }, bare: true };
  const place = title => framed(at("charts"), title);
  const price = priced(trace);
  const x = trace.offset;
  const over = trace.score.map(score => score >= sheet.threshold ? score : null);
  const scales = { ...shared.scales, y: { range: (_, low, high) => [0, Math.max(high, sheet.threshold) * 1.1] } };
  drawn = [
    quoted(trace) ? chart(place("price with bid and ask"), 190, [x, trace.bid, trace.ask, apart(trace)], [step("bid", "bid", price), step("ask", "ask", price), dots("price", "price", 4, price)], { ...shared, bands: spread })
      : chart(place("price"), 190, [x, trace.price], [dots("price", "price", 4, price)], shared),
    chart(place("score: 4 is one tick in 10,000; dashed is the threshold"), 110, [x, trace.score, x.map(() => sheet.threshold), over],
      scored("score", "over it", 7), { ...shared, scales, bare: last >= 0 }),
    ...trace.courses.map((it, i) => chart(place(it.title), 110, [x, it.observed, it.expected], pair(it), { ...shared, bare: i < last, ...units(it.feature), scales: { ...shared.scales, ...units(it.feature).scales } })),
  ];
}

function streams() {
  const budget = sheet.alert_budget;
  at("shown").textContent = sheet.count > sheet.streams.length ? `${sheet.streams.length} of ${whole.format(sheet.count)}` : "";
  at("rows").append(...sheet.streams.map(it => {
    const row = make("tr");
    const share = rate(it.alerts, it.ticks);
    const against = make("td");
    if (budget !== null) {
      const bar = make("meter");
      Object.assign(bar, { min: 0, max: 4 * budget, high: 2 * budget, low: budget, optimum: 0, value: share });
      bar.setAttribute("aria-hidden", "true");
      against.append(bar, ` ${(share / budget).toFixed(1)}x`);
    }
    row.append(make("td", "", it.stream), make("td", "", whole.format(it.ticks)), make("td", "", whole.format(it.alerts)), make("td", "", share.toFixed(1)), against, make("td", "", it.best.toFixed(1)));
    return row;
  }));
}

at("title").textContent = sheet.title;
document.title = `${sheet.title} · tickwatch`;
at("footer").textContent = `model ${sheet.model}`;
at("remark").hidden = !sheet.note;
at("remark").textContent = sheet.note;
if (sheet.course) {
  counts();
  course();
  streams();
  at("no-alerts").hidden = sheet.alerts > 0;
  at("list").append(...sheet.incidents.map(incident));
  at("feed").hidden = at("detail").hidden = sheet.alerts > 0 && !sheet.traces.length;
} else document.body.classList.add("alone");
const first = sheet.incidents.find(it => it.trace !== null);
if (first) show(first, at("list").querySelector("button"), false);
