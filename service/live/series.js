// How a stream's numbers are drawn, on the live page and in a report: lines, dots, and the units of each feature.
import { number, span } from "./dom.js";
import { colour } from "./charts.js";

const decimals = value => value === null ? 0 : String(+value.toPrecision(9)).split(".")[1]?.length ?? 0;

/** How to tell prices of a trace: all with as many decimals as the finest has, so that they stand below each other. */
export function priced({ price, bid, ask }) {
  const digits = Math.min(8, Math.max(...[price, bid, ask].flat().map(decimals)));
  return value => value === null ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

const told = (text = number) => (_, v) => v === null ? "–" : text(v);
export const step = (label, ink, text, more = {}) => () => ({ label, stroke: colour(ink), paths: uPlot.paths.stepped({ align: 1 }), value: told(text), ...more });
export const dots = (label, ink, size, text) => () => ({ label, stroke: colour(ink), width: 0, paths: () => null, points: { show: true, size, fill: colour(ink), stroke: colour(ink) }, value: told(text) });

const tenths = score => score.toFixed(1);
/** Scores, the threshold, and last, drawn larger, the scores beyond it. */
export const scored = (label, beyond, size) => [dots(label, "score", 3, tenths), step("threshold", "alarm", v => v.toFixed(2), { width: 1, dash: [6, 4] }), () => ({ ...dots(beyond, "alarm", size, tenths)(), class: "again" })];

/** What lies between bid and ask, which are the first two series. */
export const spread = () => [{ series: [2, 1], fill: colour("band") }];

const SPANS = [0, 1e3, 1e6, 6e7, 3.6e9];  // from nothing to hours: a scale that is logarithmic away from 0
const UNITS = {
  gap: { values: span, scales: { y: { distr: 4 } }, splits: (_, __, low, high) => SPANS.filter(v => v >= low && v <= high) },
  size: {},
};
const LEAST = 1;  // usual move, spread, tick or level that an axis spans: what is less is noise, and should look like it
const spans = { scales: { y: { range: (_, low, high) => {
  const more = Math.max(0, LEAST - (high - low)) / 2;
  return uPlot.rangeNum(low - more, high + more, .1, true);
} } } };
/** How the axis of a feature tells its values. */
export const units = feature => UNITS[feature] ?? spans;
const rough = value => value.toLocaleString("en", { maximumSignificantDigits: 3 });
export const pair = ({ feature }) => {
  const text = units(feature).values ?? rough;
  return [step("observed", "price", text), step("expected", "expected", text, { dash: [5, 3] })];
};

/** Of quote updates only a price outside the quote tells anything new. */
export const apart = ({ price, bid, ask, size }) => price.map((p, i) => size[i] > 0 || bid[i] === null || ask[i] === null || p < bid[i] || p > ask[i] ? p : null);
