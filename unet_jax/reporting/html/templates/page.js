// A click on a column header sorts by it, a second click in reverse; missing values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (cell) => "number" in cell.dataset ? Number(cell.dataset.number) : cell.textContent;
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const missing = (row) => row.cells[column].classList.contains("missing");
    const rows = [...body.rows].sort((a, b) =>
      missing(a) - missing(b) || sign * compare(key(a.cells[column]), key(b.cells[column])));
    body.append(...rows);
  }));
}

// A slider sets how much of each image, from its left, has its mask.
for (const slider of document.querySelectorAll("input[data-reveal]")) {
  const show = () => document.body.style.setProperty("--reveal", `${slider.value}%`);
  slider.addEventListener("input", show);
  show();
}

// A chart shows the label of the point nearest to the pointer; the arrow keys go from point to point.
for (const chart of document.querySelectorAll(".chart")) {
  const drawn = chart.querySelector("svg"), readout = chart.querySelector("output");
  const dots = [...drawn.querySelectorAll("use[data-label]")];
  const show = (chosen) => {
    for (const dot of dots) dot.classList.toggle("near", dot === chosen);
    readout.textContent = chosen ? chosen.dataset.label : "";
  };
  drawn.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !dots.length) return;
    event.preventDefault();
    const next = dots.findIndex((dot) => dot.classList.contains("near")) + step;
    show(dots[next < 0 ? dots.length - 1 : next % dots.length]);
  });
  drawn.addEventListener("pointermove", (event) => {
    let nearest = null, least = 30;  // pixels of the screen
    for (const dot of dots) {
      const box = dot.getBoundingClientRect();
      const distance = Math.hypot(
        event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
      if (distance < least) [nearest, least] = [dot, distance];
    }
    show(nearest);
  });
}
