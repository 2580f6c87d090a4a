"use strict";
// The page is complete without this: it adds sorting and a filter to the groups, and a copy button.
(() => {
  const make = (name, facts, ...children) => {
    const one = Object.assign(document.createElement(name), facts);
    one.append(...children);
    return one;
  };
  const table = document.querySelector("table.groups");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const status = make("span", { role: "status" });
    const find = make("input", { type: "search", placeholder: "Filter, e.g. up_blocks ties" });
    find.setAttribute("aria-label", "Filter the groups by words");
    const filter = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      status.textContent = words.length ? `${shown} of ${rows.length}` : "";
    };
    find.addEventListener("input", filter);
    const scroll = table.closest(".scroll");
    scroll.before(make("div", { className: "tools" }, find, status));

    const value = (row, at) => {
      const cell = row.cells[at];
      const stored = cell.dataset.v;
      const text = stored === undefined ? cell.textContent : stored;
      const number = Number.parseFloat(text);
      return text !== "" && !Number.isNaN(number) && cell.classList.contains("number")
        ? number
        : stored === "" ? null : text;
    };
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const keyed = rows.map((row) => [value(row, at), row]);
        keyed.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null);
          return down ? order(b, a) : order(a, b);
        });
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }
  const code = document.querySelector("pre code");
  if (code) {
    const button = make("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      const done = navigator.clipboard ? await navigator.clipboard.writeText(code.textContent).then(() => true, () => false) : false;
      button.textContent = done ? "Copied" : "Selected";
    });
    code.parentElement.before(make("div", { className: "tools" }, button));
  }
})();
