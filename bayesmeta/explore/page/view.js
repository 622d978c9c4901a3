// The page of `posterior.explore()`: it draws what Python has computed, and tells Python what was dragged or typed.
//
// Python holds the state. A change is drawn here at once where it is a point that moves, and sent as `asked`; the
// answer comes as `shown`, and its state replaces ours unless something has moved since. One question is under way at a
// time, and only the newest of those that wait is asked next, so that a slow model lags but never queues.

const MOST_OPTIONS = 200, CLICK = 5, PATIENCE = 400;

function render({ model, el }) {
  const setup = model.get("setup");
  const key = Math.random().toString(36).slice(2);
  const view = { state: null, shown: null, drag: null, press: null, waiting: null, next: null, count: 0 };
  const parts = build();
  el.append(parts.root);
  model.on("change:shown", answered);
  answered();
  return () => model.off("change:shown", answered);

  // --- asking -----------------------------------------------------------------------------------------------------

  function ask(changes, settled = true) {
    send({ ...view.state, ...changes, settled, copy: changes.copy ?? false, id: `${key}-${++view.count}` });
  }

  function move(points, settled) {
    view.state = { ...view.state, points };
    draw();
    ask({}, settled);
  }

  function send(message) {
    if (view.waiting) {
      view.next = message;
      return;
    }
    view.waiting = message.id;
    parts.root.dataset.waiting = "true";
    view.clock = setTimeout(() => parts.root.classList.add("bm-busy"), PATIENCE);
    model.set("asked", message);
    model.save_changes();
  }

  function answered() {
    const shown = model.get("shown");
    const ours = shown.id === view.waiting;
    if (ours) {
      view.waiting = null;
      clearTimeout(view.clock);
      parts.root.classList.remove("bm-busy");
      delete parts.root.dataset.waiting;
    }
    parts.error.textContent = shown.error;
    if (!shown.error) view.shown = shown;
    const moving = view.drag || view.next || view.waiting;
    if (!moving && !(shown.error && ours && view.state)) view.state = structuredClone(shown.state);
    draw();
    if (!moving) say(shown);
    if (ours && view.next) {
      send(view.next);
      view.next = null;
    }
  }

  function say(shown) {
    if (shown.error || shown.novelty === null) return;
    parts.live.textContent = [shown.words, shown.novelty, ...shown.notes].filter(Boolean).join(" ");
  }

  // --- what stands on the page ------------------------------------------------------------------------------------

  function build() {
    const found = {
      controls: html("div", { class: "bm-controls" }),
      prediction: picture(WIDE, "bm-prediction", "Prediction and observations, as in the tables below", key),
      theta: picture(SMALL, "bm-theta", "Density of θ before and after the observations", key),
      legend: html("ul", { class: "bm-legend" }),
      words: html("p", { class: "bm-words" }),
      novelty: html("p", { class: "bm-novelty" }),
      notes: html("ul", { class: "bm-notes" }),
      error: html("p", { class: "bm-error", role: "alert" }),
      live: html("p", { class: "bm-live", role: "status", "aria-live": "polite" }),
      rows: html("tbody"),
      table: html("table"),
    };
    const names = [...setup.columns.map((one) => one.name), setup.outcome.name];
    const head = html("tr", {}, ...["", ...names, ""].map((name) => html("th", { scope: "col" }, name)));
    found.copy = html("button", { type: "button", onclick: () => ask({ copy: true }) }, "Copy to a new task");
    found.add = html("button", { type: "button", class: "bm-add", onclick: addTyped }, "Add an observation");
    found.clear = html("button", { type: "button", onclick: () => move([], true) }, "Remove all");
    const table = html("table", {}, html("caption", {}, "New observations"), html("thead", {}, head), found.rows);
    found.observations = html(
      "section", { class: "bm-observations" },
      html("div", { class: "bm-rows" }, table),
      html("p", {}, found.add, " ", found.clear, " ", found.copy),
      html("details", {}, html("summary", {}, "The prediction as a table"), found.table),
    );
    found.root = html(
      "div", { class: "bm-explore", role: "group", "aria-label": "Explore the posterior" },
      found.controls, found.error,
      html("div", { class: "bm-pictures" }, found.prediction.root, setup.elements.length ? found.theta.root : ""),
      found.legend, found.words, found.novelty, found.notes, found.live, found.observations,
    );
    listen(found.prediction.root);
    return found;
  }

  function select(label, options, chosen, onChoice) {
    const box = html("select", { "aria-label": label, onchange: () => onChoice(box.value) });
    for (const [group, names] of options) {
      const items = names.map(([value, text]) => html("option", { value, selected: value === String(chosen) }, text));
      box.append(...(group ? [html("optgroup", { label: group }, ...items)] : items));
    }
    return html("label", {}, label, " ", box);
  }

  function chooseTask() {
    const choose = (task) => ask({ task, points: null });
    const pairs = (names) => names.map((name) => [name, name]);
    if (setup.count <= MOST_OPTIONS) {
      const fresh = [[setup.new, `a new ${setup.noun}`]];
      const groups = [["", fresh], ["not of the fit", pairs(setup.more)], ["of the fit", pairs(setup.fit)]];
      return select(setup.noun, groups.filter(([, names]) => names.length), view.state.task, choose);
    }
    const options = [setup.new, ...setup.more, ...setup.fit].map((value) => html("option", { value }));
    const list = html("datalist", { id: `${key}-tasks` }, ...options);
    const label = { "aria-label": setup.noun, list: `${key}-tasks` };
    const box = html("input", { ...label, value: view.state.task, onchange: () => choose(box.value) });
    return html("label", {}, `${setup.noun} (one of ${setup.count.toLocaleString("en")}, by name) `, box, list);
  }

  function drawControls() {
    const { state } = view, chosen = JSON.stringify([state.task, state.column, state.element]);
    const typing = parts.controls.contains(document.activeElement) && document.activeElement.tagName === "INPUT";
    if (typing && chosen === view.chosen) return;
    view.chosen = chosen;
    const focused = [...parts.controls.querySelectorAll("select")].indexOf(document.activeElement);
    const made = [chooseTask()];
    for (const one of setup.contexts) {
      const change = (value) => ask({ context: { ...view.state.context, [one.name]: value } });
      const given = state.context[one.name], fixed = { disabled: state.task !== setup.new };
      made.push(html("label", {}, `${one.name} `, numberInput(one.name, given, change, fixed)));
    }
    if (setup.columns.length > 1) {
      const names = setup.columns.map((one, k) => [String(k), one.name]);
      made.push(select("horizontal axis", [["", names]], state.column, (k) => ask({ column: Number(k) })));
      setup.columns.forEach((one, k) => {
        if (k === state.column) return;
        const change = (value) => ask({ held: view.state.held.map((old, j) => (j === k ? value : old)) });
        made.push(html("label", {}, `${one.name} held at `, numberInput(`${one.name} held at`, state.held[k], change)));
      });
    }
    if (setup.elements.length > 1) {
      const names = setup.elements.map((label, k) => [String(k), label]);
      made.push(select("θ", [["", names]], state.element, (k) => ask({ element: Number(k) })));
    }
    parts.controls.replaceChildren(...made);
    if (focused >= 0) parts.controls.querySelectorAll("select")[focused]?.focus();
  }

  // --- moving points ----------------------------------------------------------------------------------------------

  function listen(root) {
    const end = (event) => {
      if (view.drag) {
        view.drag = null;
        move(view.state.points, true);
      } else if (view.press && Math.hypot(event.clientX - view.press.x, event.clientY - view.press.y) < CLICK) {
        addAt(event);
      }
      view.press = null;
    };
    root.addEventListener("pointerdown", (event) => {
      const k = event.target.getAttribute("data-point");
      if (k === null) {
        view.press = { x: event.clientX, y: event.clientY };
        return;
      }
      view.drag = { k: Number(k), limits: view.shown.limits };
      root.setPointerCapture(event.pointerId);
      event.target.focus();
      event.preventDefault();
    });
    root.addEventListener("pointermove", (event) => {
      if (view.drag) place(view.drag.k, where(event), false);
    });
    root.addEventListener("pointerup", end);
    root.addEventListener("pointercancel", () => {
      view.drag = view.press = null;
    });
    root.addEventListener("keydown", onKey);
  }

  function where(event) {
    const matrix = parts.prediction.root.getScreenCTM().inverse();
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
    const { left, right, top, bottom, width, height } = WIDE;
    const across = Math.min(Math.max(x, left), width - right), down = Math.min(Math.max(y, top), height - bottom);
    return { inside: x > left && y < height - bottom, x: view.x.back(across), y: view.y.back(down) };
  }

  function place(k, { x, y }, settled) {
    const { column } = view.state;
    const inputs = view.state.points[k].x.map((old, j) => (j === column ? snap(x, setup.columns[j]) : old));
    const moved = { x: inputs, y: snap(y, setup.outcome) };
    move(view.state.points.map((old, j) => (j === k ? moved : old)), settled);
  }

  function append(inputs, y) {
    if (view.state.points.length >= setup.most) return;
    move([...view.state.points, { x: inputs, y: snap(y, setup.outcome) }], true);
  }

  function addAt(event) {
    const at = where(event);
    if (!at.inside) return;
    append(view.state.held.map((old, j) => (j === view.state.column ? snap(at.x, setup.columns[j]) : old)), at.y);
  }

  function addTyped() {
    const { band } = view.shown, column = setup.columns[view.state.column];
    const at = column ? band.x.findIndex((value) => value >= view.state.held[view.state.column]) : 0;
    append([...view.state.held], band.mean[Math.max(at, 0)] ?? setup.outcome.middle);
    parts.rows.querySelector("tr:last-child input:last-of-type")?.focus();
  }

  function remove(k) {
    move(view.state.points.filter((_, j) => j !== k), true);
    (parts.prediction.points.children[Math.min(k, view.state.points.length - 1)] ?? parts.add).focus();
  }

  function onKey(event) {
    const k = event.target.getAttribute("data-point");
    if (k === null) return;
    const direction = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (direction) {
      const point = view.state.points[k], column = setup.columns[view.state.column];
      const times = event.shiftKey ? 5 : 1, old = column ? point.x[view.state.column] : 0;
      const x = column ? old + direction[0] * times * stepOf(column, column.high - column.low) : old;
      const y = point.y + direction[1] * times * stepOf(setup.outcome, view.y.high - view.y.low);
      place(Number(k), { x, y }, true);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      remove(Number(k));
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  // --- drawing ----------------------------------------------------------------------------------------------------

  function draw() {
    if (!view.shown || !view.state) return;
    if (!view.drag) drawControls();
    scales();
    drawPrediction();
    drawPoints();
    if (view.shown.theta) drawDensities(parts.theta, view.shown.theta);
    drawTables();
    drawWords();
  }

  function scales() {
    const { shown, state } = view, column = setup.columns[state.column];
    const [low, high] = view.drag ? view.drag.limits : shown.limits, room = 0.04 * (high - low);
    const { left, right, top, bottom, width, height } = WIDE;
    let ends = [0.4, Math.max(8, shown.seen.x.length + state.points.length + 2) + 0.6];
    if (column) {
      const xs = [column.low, column.high, ...state.points.map((point) => point.x[state.column])];
      ends = [Math.min(...xs), Math.max(...xs)];
      const gap = column.kind === "levels" ? 0.5 * stepOf(column) : 0.02 * (ends[1] - ends[0]);
      ends = [ends[0] - gap, ends[1] + gap];
    }
    view.x = scale(...ends, left, width - right);
    view.y = scale(low - room, high + room, height - bottom, top);
    view.place = (point, k) => view.x(column ? point.x[state.column] : k + 1);
  }

  function drawPrediction() {
    const { back, curves, box } = parts.prediction, { shown, state, x, y } = view, column = setup.columns[state.column];
    const levels = column?.kind === "levels";
    const even = ticks(column ? x.low : 1, x.high).filter((at) => column || at === Math.round(at));
    const across = levels ? column.values : even;
    const up = setup.outcome.binary ? [0, 0.5, 1] : ticks(y.low, y.high);
    const name = setup.outcome.binary ? `probability that ${setup.outcome.name} = 1` : setup.outcome.name;
    back.replaceChildren(...axis(box, x, across, column?.name ?? "observation"), ...upright(box, y, up, name));
    const draw = (curve, style) => {
      const rows = rowsOf(curve, column, x);
      return levels ? bars(rows, x, y, style, stepOf(column)) : band(rows, x, y, style);
    };
    const seen = shown.seen.x.map((inputs, k) => {
      const at = { cx: view.place({ x: inputs }, k), cy: y(shown.seen.y[k]) };
      return svg("circle", { ...at, r: 3.2, fill: BLACK, "fill-opacity": 0.65 });
    });
    curves.replaceChildren(...draw(shown.before, BEFORE), ...draw(shown.band, AFTER), ...seen);
  }

  function drawPoints() {
    const { points } = parts.prediction, { state, shown } = view;
    while (points.children.length > state.points.length) points.lastChild.remove();
    while (points.children.length < state.points.length) {
      const k = points.children.length;
      const look = { r: 8, fill: AMBER, stroke: BLACK, "stroke-width": 1.5 };
      points.append(svg("circle", { ...look, tabindex: 0, role: "slider", "data-point": k }));
    }
    state.points.forEach((point, k) => {
      const inputs = setup.columns.map((column, j) => `${column.name} ${show(point.x[j])}, `).join("");
      const text = `${inputs}${setup.outcome.name} ${show(point.y)}`;
      const circle = points.children[k];
      circle.setAttribute("cx", view.place(point, k + shown.seen.x.length));
      circle.setAttribute("cy", view.y(point.y));
      circle.setAttribute("aria-label", `Observation ${k + 1}: arrow keys move it, Delete removes it`);
      circle.setAttribute("aria-valuenow", point.y);
      circle.setAttribute("aria-valuetext", text);
    });
  }

  // --- tables and words -------------------------------------------------------------------------------------------

  function drawTables() {
    const { state, shown } = view, { rows } = parts;
    rows.parentElement.hidden = !state.points.length;
    if (rows.children.length !== state.points.length) rows.replaceChildren(...state.points.map((_, k) => row(k)));
    state.points.forEach((point, k) => {
      const inputs = rows.children[k].querySelectorAll("input");
      [...point.x, point.y].forEach((value, j) => {
        if (inputs[j] !== document.activeElement) inputs[j].value = show(value, TYPED);
      });
    });
    const full = state.points.length >= setup.most;
    parts.add.disabled = full;
    parts.clear.hidden = !state.points.length;
    parts.copy.hidden = !shown.seen.count || shown.seen.count + state.points.length > setup.most;
    drawPredictionTable();
  }

  function row(k) {
    const change = (j) => (value) => {
      const old = view.state.points[k];
      const x = old.x.map((one, i) => (i === j ? value : one));
      const point = { x, y: j === old.x.length ? value : old.y };
      move(view.state.points.map((one, i) => (i === k ? point : one)), true);
    };
    const names = [...setup.columns.map((one) => one.name), setup.outcome.name];
    const cells = names.map((name, j) => html("td", {}, numberInput(`${name} of observation ${k + 1}`, 0, change(j))));
    const label = `Remove observation ${k + 1}`;
    const button = html("button", { type: "button", "aria-label": label, onclick: () => remove(k) }, "×");
    return html("tr", {}, html("th", { scope: "row" }, String(k + 1)), ...cells, html("td", {}, button));
  }

  function drawPredictionTable() {
    const { band: curve } = view.shown, column = setup.columns[view.state.column], last = curve.x.length - 1;
    const picks = [...new Set([0, 1, 2, 3, 4, 5, 6].map((k) => Math.round((k * last) / 6)))];
    const head = [...(column ? [column.name] : []), "mean", "lower", "upper"];
    const cell = (value) => html("td", {}, value === null ? "" : show(value));
    const body = picks.map((k) => {
      const values = [...(column ? [curve.x[k]] : []), curve.mean[k], curve.lower[k], curve.upper[k]];
      return html("tr", {}, ...values.map(cell));
    });
    const { binary, name } = setup.outcome, what = binary ? `Probability that ${name} = 1` : `What ${name} will be`;
    parts.table.replaceChildren(
      html("caption", {}, `${what}, with ${percent()} intervals`),
      html("thead", {}, html("tr", {}, ...head.map((name) => html("th", { scope: "col" }, name)))),
      html("tbody", {}, ...body),
    );
  }

  function percent() {
    return `${Number((100 * setup.level).toPrecision(4))}%`;
  }

  function drawWords() {
    const { shown } = view, what = `${setup.outcome.binary ? "probability" : "mean"} and ${percent()} interval`;
    const item = (color, text) => html("li", {}, html("span", { style: `background: ${color}` }), text);
    parts.legend.replaceChildren(
      item(PALE, "before any observation"), item("#9fbadb", `adapted: ${what}`),
      ...(shown.seen.count ? [item(BLACK, `${shown.seen.count.toLocaleString("en")} known observations`)] : []),
      item(AMBER, "new observations: click to add, drag to move"),
    );
    parts.words.textContent = shown.words;
    if (shown.novelty !== null) parts.novelty.textContent = shown.novelty;
    parts.novelty.classList.toggle("bm-strange", shown.strange);
    parts.notes.replaceChildren(...shown.notes.map((note) => html("li", {}, note)));
  }
}

export default { render };
