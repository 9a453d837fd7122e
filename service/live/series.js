// How a stream's numbers are drawn, on the live page and in a report: lines, dots, and the units of each feature.
import { number, span } from "./dom.js";
import { colour } from "./charts.js";

export const step = (label, ink, more = {}) => () => ({ label, stroke: colour(ink), paths: uPlot.paths.stepped({ align: 1 }), value: (_, v) => v === null ? "–" : number(v), ...more });
export const dots = (label, ink, size) => () => ({ label, stroke: colour(ink), width: 0, paths: () => null, points: { show: true, size, fill: colour(ink), stroke: colour(ink) }, value: (_, v) => v === null ? "–" : number(v) });

const SPANS = [0, 1e3, 1e6, 6e7, 3.6e9];  // from nothing to hours: a scale that is logarithmic away from 0
export const UNITS = { gap: { values: span, scales: { y: { distr: 4 } }, splits: (_, __, low, high) => SPANS.filter(v => v >= low && v <= high) } };
export const pair = ({ feature }) => {
  const value = (_, v) => v === null ? "–" : (UNITS[feature]?.values ?? number)(v);
  return [step("observed", "price", { value }), step("expected", "expected", { dash: [5, 3], value })];
};

/** Of quote updates only a price outside the quote tells anything new. */
export const apart = ({ price, bid, ask, size }) => price.map((p, i) => size[i] > 0 || bid[i] === null || ask[i] === null || p < bid[i] || p > ask[i] ? p : null);
