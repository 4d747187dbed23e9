// Two conveniences; the page is complete without them. The theme is set before anything is painted.
const root = document.documentElement;
const themes = ["auto", "light", "dark"];
let theme = "auto";
try { theme = localStorage.getItem("theme") ?? theme; } catch {}
root.dataset.theme = theme;

addEventListener("DOMContentLoaded", () => {
  const button = document.querySelector("#theme");
  const show = () => {
    root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  button.hidden = false;
  button.onclick = () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("theme", theme); } catch {}
    show();
  };
  show();
  for (const table of document.querySelectorAll("table")) sortable(table);
});

const units = { ns: 1e-9, us: 1e-6, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, k: 1e3, M: 1e6, G: 1e9 };

// A cell as a number, if it begins with one: 1.5 us is less than 1 ms.
function value(cell) {
  const [, number, unit] = cell.dataset.text.match(/^[×<>≤≥ ]*([-+−]?[\d.,]+)\s*([A-Za-zµ]*)/) ?? [];
  return number && Number(number.replaceAll(",", "").replace("−", "-")) * (units[unit] ?? 1);
}

function sortable(table) {
  const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
  [...head.cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.append(...cell.childNodes);
    cell.append(button);
    button.onclick = () => {
      const way = cell.ariaSort === "ascending" ? -1 : 1;
      for (const other of head.cells) other.ariaSort = null;
      cell.ariaSort = way > 0 ? "ascending" : "descending";
      const rows = [...body.rows].map((row) => [value(row.cells[column]), row.cells[column].dataset.text, row]);
      // What is no number comes last, either way.
      rows.sort(([a, left], [b, right]) =>
        a === undefined || b === undefined
          ? (a === undefined) - (b === undefined) || way * left.localeCompare(right, "en", { numeric: true })
          : way * (a - b));
      body.append(...rows.map(([, , row]) => row));
    };
  });
}
