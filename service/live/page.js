// The page: what it is sent, what the person chooses, and what is wrong.
import { at, make } from "./dom.js";
import { chart, colour } from "./charts.js";
import * as detail from "./detail.js";
import * as feed from "./feed.js";
import { drift } from "./drift.js";
import { heat } from "./heat.js";
import * as peer from "./peer.js";
import { ask, keep, key, listen, secured } from "./wire.js";

const PULSES = 300;
const ENOUGH_TICKS = 5000;
const SILENT_MS = 4000;
const AGAIN_MS = 1000;
let started = null;
let anew = true;
let status = null;
let pulses = [];
let pulse = null;
let heard = 0;
let unseen = 0;
let listening = null;

// ---- what is shown stands in the address, so that it can be shared and the Back key works
const go = parameters => { location.hash = new URLSearchParams(parameters); };
const place = ({ partition, offset }) => ({ partition, offset });
const chooseAlert = alert => go(place(alert));
const chooseStream = stream => go({ stream });
const chooseIncident = it => it.ours === null ? go({ stream: it.stream, at: it.ts / 1e6 }) : chooseAlert(it);  // theirs has no offset here

function route() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  if (chosen.has("stream")) detail.show({ stream: chosen.get("stream"), at: chosen.has("at") ? Number(chosen.get("at")) : undefined });
  else if (chosen.has("offset")) {
    const [partition, offset] = ["partition", "offset"].map(name => Number(chosen.get(name)));
    detail.show({ partition, offset, alert: feed.find(partition, offset) });
  } else if (feed.latest()) detail.show({ ...place(feed.latest()), alert: feed.latest() }, false);
  else detail.forget();
  feed.current(detail.shows()?.alert);
}

// ---- connection
async function connect() {
  listening?.abort();
  const mine = listening = new AbortController();
  if (secured && !key()) { lock(""); return; }
  let why = "tickwatch does not answer. What you see is old; trying again.";
  try {
    await listen("events", mine.signal, { hello, alerts, status: report });
  } catch (error) {
    if (mine === listening && error.locked) { keep(""); lock(error.message); return; }
    if (error.locked === false) why = `${error.message}; trying again.`;
  }
  if (mine !== listening) return;
  lost(why);
  setTimeout(() => { if (mine === listening) connect(); }, AGAIN_MS);
}

/** Nothing of what a key has shown stays when it no longer counts. */
function lock(why) {
  heard = 0;
  listening.abort();
  feed.add([], true);
  detail.forget();
  heat({ stream: [], score: [], active: 0 }, 0, chooseStream);
  document.body.classList.add("locked");
  at("unlock").hidden = false;
  at("forget").hidden = true;
  at("locked").textContent = why;
  at("connection").dataset.state = "lost";
  at("connection").textContent = "locked";
  trouble("");
  at("key").focus();
}

at("unlock").addEventListener("submit", event => {
  event.preventDefault();
  keep(at("key").value.trim());
  at("key").value = "";
  if (!key()) return;
  at("unlock").hidden = true;
  document.body.classList.remove("locked");
  at("connection").textContent = "connecting";
  connect();
});
at("forget").addEventListener("click", () => { keep(""); location.replace(location.pathname); });

function lost(why) {
  document.body.classList.add("stale");
  at("connection").dataset.state = "lost";
  at("connection").textContent = "not connected";
  trouble(why);
}

function trouble(why) {
  if (at("problem").textContent !== why) at("problem").textContent = why;
  at("problem").hidden = !why;
}

function hello(told) {
  heard = Date.now();
  at("forget").hidden = !secured;
  at("metrics").hidden = secured;  // it asks for another key
  peer.watch(told.peer, chooseIncident);
  anew = true;
  pulses = told.pulses;
  if (started !== null && started !== told.started) history.replaceState(null, "", location.pathname);  // its ticks are gone
  if (started !== told.started) { started = told.started; card(); }
}

function alerts(told) {
  feed.add(told, anew);
  if (anew || !detail.shows()) route();
  if (!anew && document.hidden) unseen += told.length;
  anew = false;
  document.title = unseen ? `(${unseen}) tickwatch` : "tickwatch";
}

function report(told) {
  heard = Date.now();
  status = told.status;
  detail.configure(status);
  document.body.classList.toggle("stale", told.age > SILENT_MS / 1e3);
  at("connection").dataset.state = "live";
  at("connection").textContent = `live, ${new Date().toISOString().slice(11, 19)} UTC`;
  trouble(told.age > SILENT_MS / 1e3 ? `The worker has not moved for ${told.age.toFixed(0)} s: look at its log.`
    : told.ready ? "" : "State is being restored, or the log can't be reached.");
  counts(told.heat);
  drift(told.drift);
  peer.configure(status);
  heat(told.heat, status.threshold, chooseStream);
}

setInterval(() => { if (heard && Date.now() - heard > SILENT_MS) lost("Nothing was heard for some seconds; trying again."); }, 1000);
setInterval(() => { if (heard && Date.now() - heard > 4 * SILENT_MS) { heard = Date.now(); connect(); } }, 1000);

// ---- numbers
const whole = value => Math.round(value).toLocaleString("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function counts(minute) {
  const last = pulses.at(-1);
  at("rejected").parentElement.hidden = status.rejected === null;
  if (!last || status.seconds - last.seconds >= 1) pulses = [...pulses, status].slice(-PULSES);
  const then = pulses.findLast(p => status.seconds - p.seconds >= 3) ?? pulses[0];
  if (status.seconds > then.seconds) at("rate").textContent = whole(Math.max(0, status.ticks - then.ticks) / (status.seconds - then.seconds));
  for (const name of ["streams", "rejected", "lag", "alerts"]) at(name).textContent = whole(status[name] ?? 0);
  at("ticks").textContent = status.ticks < 1e6 ? whole(status.ticks) : short.format(status.ticks);
  if (status.ticks) at("share").textContent = `${whole(status.alerts / status.ticks * 1e5)} in 100,000`;
  fit(minute);
  at("version").textContent = `tickwatch ${status.version}`;
  beat();
}

/** Whether the model fits the market: the same bounds as the rule TickwatchScoresShifted, over the last minute or less. */
function fit({ ticks, over }) {
  if (ticks < ENOUGH_TICKS) { at("fit").textContent = "too few ticks yet"; return; }
  at("over").textContent = `${(over * 100).toFixed(1)} %`;
  at("fit").textContent = over > 0.06 ? "far above 1 %: is it the right model?" : over < 0.002 ? "far below 1 %: does the feed lack fields?" : "usual: 0.8–2.6 %";
}

function beat() {
  const now = Date.now() / 1e3;
  const rates = pulses.map((p, i) => i ? (p.ticks - pulses[i - 1].ticks) / (p.seconds - pulses[i - 1].seconds) : null);
  const data = [pulses.map(p => now - (status.seconds - p.seconds)), rates, pulses.map(p => p.lag)];
  if (pulse) { pulse.update(data); return; }
  const zero = { range: (_, low, high) => [0, Math.max(high, 1) * 1.1] };
  const line = (label, ink, scale) => () => ({ label, stroke: colour(ink), scale, fill: scale === "y" ? colour("band") : undefined });
  pulse = chart({ place: at("pulse") }, 74, data, [line("ticks a second", "bid", "y"), line("lag", "alarm", "lag")],
    { scales: { y: zero, lag: zero }, values: v => short.format(v) });
}

// ---- the model
async function card() {
  try {
    const told = await ask("model.json");
    at("model-name").textContent = told.model;
    const thresholds = Object.entries(told.thresholds).map(([budget, score]) => `${budget}: ${score.toFixed(2)}`).join(", ");
    const lines = {
      "model": told.model,
      "recurrent cell": `${told.cell.toUpperCase()}, ${told.hidden} hidden units, bottleneck of ${told.bottleneck}`,
      "alert budget in use": `${told.alert_budget} false alarms in 100,000 ticks`,
      "thresholds by budget": thresholds,
      [`features, ${told.feature_set}`]: told.features.join(", "),
      "training data": told.data_fingerprint, "code revision": told.code_revision, "seed": told.seed,
    };
    at("card").replaceChildren(...Object.entries(lines).flatMap(([term, text]) => [make("dt", "", term), make("dd", "", text)]));
  } catch {
    at("model-name").textContent = "did not load";
    started = null;
  }
}

// ---- search
let typing = 0;
at("wanted").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(async () => {
    try {
      const names = await ask("streams.json", { q: at("wanted").value });
      at("found").replaceChildren(...names.map(name => Object.assign(make("option"), { value: name })));
    } catch { /* the connection says so already */ }
  }, 150);
});
at("search").addEventListener("submit", async event => {
  event.preventDefault();
  const text = at("wanted").value;
  if (!text) return;
  const names = await ask("streams.json", { q: text }).catch(() => []);
  chooseStream(names.includes(text) ? text : names[0] ?? text);
});

at("follow").addEventListener("click", () => chooseStream(at("detail-title").textContent));
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => { unseen = 0; document.title = "tickwatch"; });
feed.listen(chooseAlert);
connect();
