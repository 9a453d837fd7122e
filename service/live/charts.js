// Charts of uPlot in the colours of the page, as wide as their place, redrawn when either changes.
import { make } from "./dom.js";

const charts = new Set();
const dark = matchMedia("(prefers-color-scheme: dark)");
export const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const utc = seconds => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC");
const resized = new ResizeObserver(entries => {
  for (const { target, contentRect } of entries)
    for (const chart of charts) if (chart.place === target && contentRect.width) chart.plot.setSize({ width: contentRect.width, height: chart.height });
});

function axis(size, more = {}) {
  return { stroke: colour("dim"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui", size, gap: 4, ...more };
}

/** Labels of the time axis on one line, with as many digits as the distance of the ticks needs. */
function clock(_, ticks, __, ___, distance) {
  const end = distance >= 60 ? 16 : distance >= 1 ? 19 : 23;
  return ticks.map(tick => new Date(Math.round(tick * 1e3)).toISOString().slice(11, end));
}

const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });

/** Numbers below each other, all with the decimals that their distance needs: 145.20 above 145.15. */
function plain(_, ticks, __, ___, distance) {
  const all = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const digits = all.find(n => Math.abs(distance * 10 ** n - Math.round(distance * 10 ** n)) < 1e-6) ?? 8;
  const format = distance >= 1000 ? short : new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return ticks.map(v => v === null ? null : format.format(v));
}

const TIME = { label: "time", value: "{HH}:{mm}:{ss}.{fff}", values: clock, space: 100 };  // what the horizontal axis tells

/**
 * Draws `series` over `data` in a frame; `marks` gives the x of vertical lines, `bare` leaves the times to a chart below.
 * The legend tells the values under the pointer, else at the first mark, else the last. Returns the chart, for `update` and `remove`.
 */
export function chart({ place, legend }, height, data, series, { sync, marks = () => [], values, splits, bands, bare = false, scales = {}, places = TIME } = {}) {
  const it = { place, height, data };
  function draw() {
    it.plot?.destroy();
    const options = {
      width: place.clientWidth || 300, height, padding: [8, 28, 0, 0], tzDate: utc, bands: bands?.(),
      legend: { show: Boolean(legend), mount: (_, table) => legend.append(table) },
      cursor: { sync: sync && { key: sync }, y: false, drag: { x: true, y: false } },
      scales: { x: { time: true }, ...scales },
      axes: [axis(bare ? 4 : 22, { values: bare ? (_, ticks) => ticks.map(() => "") : places.values, space: places.space }),
        axis(64, { space: 22, ...(splits && { splits, filter: (_, all) => all }), values: values ? (_, ticks) => ticks.map(v => v === null ? null : values(v)) : plain })],
      series: [{ label: places.label, value: places.value }, ...series.map(one => ({ width: 1.5, points: { show: false }, ...one() }))],
      hooks: { draw: [lines], setCursor: [plot => plot.cursor.left < 0 && rest(plot)] },
    };
    it.plot = new uPlot(options, it.data, place);
    rest(it.plot);
  }
  function rest(plot) {
    const [x] = plot.data;
    const marked = x.indexOf(marks()[0]);
    if (legend && x.length) plot.setLegend({ idx: marked < 0 ? x.length - 1 : marked }, false);
  }
  function lines(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour("alarm");
    ctx.setLineDash([4, 4]);
    for (const mark of marks()) {
      const left = plot.valToPos(mark, "x", true);
      if (left < bbox.left || left > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }
  it.update = next => {
    it.data = next;
    it.plot.setData(next);
    if (it.plot.cursor.left < 0) rest(it.plot);
  };
  it.draw = draw;
  it.remove = () => { charts.delete(it); resized.unobserve(place); it.plot.destroy(); };
  draw();
  charts.add(it);
  resized.observe(place);
  return it;
}

dark.addEventListener("change", () => charts.forEach(it => it.draw()));

/** A place for a chart under its title, which is also what a screen reader says of it, and for the legend beside that. */
export function framed(parent, title) {
  const frame = make("div", "chart");
  const [head, legend, place] = ["head", "legend", ""].map(name => make("div", name));
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", title);
  head.append(make("h3", "", title), legend);
  frame.append(head, place);
  parent.append(frame);
  return { place, legend };
}
