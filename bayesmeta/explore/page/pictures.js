// What the two pictures are made of: axes, bands, densities. Numbers and scales come in, elements go out.

const WIDE = { width: 640, height: 360, left: 62, right: 14, top: 14, bottom: 46 };
const SMALL = { width: 360, height: 360, left: 14, right: 14, top: 14, bottom: 46 };
const BLUE = "#1f5fa8", GREY = "#5f5f5f", PALE = "#d9d9d9", BLACK = "#111111", AMBER = "#c77d0a";
const BEFORE = { stroke: GREY, fill: PALE, opacity: 1, half: 0.3 };
const AFTER = { stroke: BLUE, fill: BLUE, opacity: 0.28, half: 0.16 };
const RUG = 12;

function picture(box, name, label, key) {
  const size = `0 0 ${box.width} ${box.height}`;
  const root = svg("svg", { viewBox: size, class: name, role: "group", "aria-label": label });
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // arrows belong to the points, not to JupyterLab's cells
  const clip = svg("clipPath", { id: `${key}-${name}` });
  const { left, right, top, bottom, width, height } = box;
  clip.append(svg("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom }));
  const back = svg("g"), curves = svg("g", { "clip-path": `url(#${key}-${name})` }), points = svg("g");
  root.append(clip, back, curves, points);
  return { root, back, curves, points, box };
}

function axis(box, x, at, name) {
  const floor = box.height - box.bottom, middle = (box.left + box.width - box.right) / 2;
  const made = [svg("line", { x1: box.left, x2: box.width - box.right, y1: floor, y2: floor, stroke: BLACK })];
  for (const value of at) {
    made.push(svg("line", { x1: x(value), x2: x(value), y1: floor, y2: floor + 5, stroke: BLACK }));
    made.push(svg("text", { x: x(value), y: floor + 19, "text-anchor": "middle" }, show(value, TYPED)));
  }
  return [...made, svg("text", { x: middle, y: box.height - 8, "text-anchor": "middle", class: "bm-name" }, name)];
}

function upright(box, y, at, name) {
  const made = [svg("line", { x1: box.left, x2: box.left, y1: box.top, y2: box.height - box.bottom, stroke: BLACK })];
  for (const value of at) {
    made.push(svg("line", { x1: box.left - 5, x2: box.left, y1: y(value), y2: y(value), stroke: BLACK }));
    made.push(svg("text", { x: box.left - 8, y: y(value) + 4, "text-anchor": "end" }, show(value, TYPED)));
  }
  const transform = `translate(14 ${(box.top + box.height - box.bottom) / 2}) rotate(-90)`;
  return [...made, svg("text", { transform, "text-anchor": "middle", class: "bm-name" }, name)];
}

function outline(rows, x, y) {
  return rows.map(([across, up]) => `${x(across).toFixed(1)},${y(up).toFixed(1)}`).join(" ");
}

// A curve as rows of x, mean, lower and upper; without an axis of x, the same from end to end.
function rowsOf(curve, column, x) {
  const at = column ? curve.x : [x.low, x.high];
  const value = (name, k) => curve[name][column ? k : 0];
  const rows = at.map((one, k) => {
    return { x: one, mean: value("mean", k), lower: value("lower", k), upper: value("upper", k) };
  });
  return rows.filter((row) => row.mean !== null);
}

function band(rows, x, y, { stroke, fill, opacity }) {
  const known = rows.filter((row) => row.lower !== null && row.upper !== null);
  const there = known.map((row) => [row.x, row.upper]), back = known.map((row) => [row.x, row.lower]).reverse();
  const middle = outline(rows.map((row) => [row.x, row.mean]), x, y);
  return [
    svg("polygon", { points: outline([...there, ...back], x, y), fill, "fill-opacity": opacity }),
    svg("polyline", { points: middle, fill: "none", stroke, "stroke-width": 2 }),
  ];
}

function bars(rows, x, y, { stroke, fill, opacity, half }, gap) {
  return rows.flatMap((row) => {
    const left = x(row.x - half * gap), right = x(row.x + half * gap);
    const middle = svg("line", { x1: left, x2: right, y1: y(row.mean), y2: y(row.mean), stroke, "stroke-width": 2 });
    if (row.lower === null || row.upper === null) return [middle];
    const [top, bottom] = [y(row.upper), y(row.lower)];
    const bar = { x: left, width: right - left, y: top, height: bottom - top, fill, "fill-opacity": opacity };
    return [svg("rect", bar), middle];
  });
}

function drawDensities({ back, curves, box }, theta) {
  const floor = box.height - box.bottom, ground = floor - RUG;
  const x = scale(theta.x[0], theta.x.at(-1), box.left, box.width - box.right);
  const y = scale(0, 1.06 * Math.max(...theta.after, ...theta.before), ground, box.top);
  const hill = (values, { stroke, fill, opacity }) => {
    const top = outline(theta.x.map((at, k) => [at, values[k]]), x, y);
    const points = `${x(x.low)},${ground} ${top} ${x(x.high)},${ground}`;
    return [
      svg("polygon", { points, fill, "fill-opacity": opacity }),
      svg("polyline", { points: top, fill: "none", stroke, "stroke-width": 2 }),
    ];
  };
  const rug = theta.rug.filter((at) => at !== null).map((at) => {
    return svg("line", { x1: x(at), x2: x(at), y1: ground + 2, y2: floor, stroke: BLACK, "stroke-opacity": 0.35 });
  });
  back.replaceChildren(...axis(box, x, ticks(x.low, x.high, 5), theta.label));
  curves.replaceChildren(...hill(theta.before, BEFORE), ...hill(theta.after, AFTER), ...rug);
}
