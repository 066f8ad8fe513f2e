"use strict";
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;

function key(body, column) {
  const cell = body.rows[0].cells[column];
  const value = cell.dataset.sort ?? cell.textContent.trim();
  const number = Number(value);
  return value !== "" && !Number.isNaN(number) ? number : value;
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies].map((body) => [key(body, column), body]);
      rows.sort(([a], [b]) => (typeof a === typeof b ? (a > b) - (a < b) : typeof a === "number" ? -1 : 1));
      if (down) rows.reverse();
      table.append(...rows.map(([, body]) => body));
    });
  });
}

const finder = document.getElementById("find");
if (finder) {
  const buttons = [...document.querySelectorAll(".tools button[data-status]")];
  let wanted = "";
  const apply = () => {
    const text = finder.value.trim().toLowerCase();
    for (const body of document.querySelectorAll("tbody.case")) {
      body.hidden =
        (wanted !== "" && body.dataset.status !== wanted) ||
        (text !== "" && !body.textContent.toLowerCase().includes(text));
    }
  };
  finder.addEventListener("input", apply);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      wanted = button.dataset.status;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      apply();
    });
  }
}

const box = document.getElementById("lightbox");
if (box && box.showModal) {
  const pictures = [...document.querySelectorAll("figure[data-zoom]")];
  let shown = 0;
  const show = (index) => {
    shown = (index + pictures.length) % pictures.length;
    const image = pictures[shown].querySelector("img");
    const large = box.querySelector("img");
    large.src = image.src;
    large.alt = image.alt;
    box.querySelector("span").textContent = pictures[shown].dataset.zoom;
  };
  pictures.forEach((figure, index) => {
    const image = figure.querySelector("img");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", "Enlarge: " + figure.dataset.zoom);
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => { show(index); box.showModal(); });
  });
  box.querySelector("[data-go=previous]").addEventListener("click", () => show(shown - 1));
  box.querySelector("[data-go=next]").addEventListener("click", () => show(shown + 1));
  box.querySelector("[data-go=close]").addEventListener("click", () => box.close());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(shown - 1);
    if (event.key === "ArrowRight") show(shown + 1);
  });
}

const light = (name, on) => {
  for (const point of document.querySelectorAll('circle[data-case="' + CSS.escape(name) + '"]')) {
    point.classList.toggle("lit", on);
  }
};
for (const points of document.querySelectorAll("g.points")) {
  points.addEventListener("pointerover", (event) => event.target.dataset.case && light(event.target.dataset.case, true));
  points.addEventListener("pointerout", (event) => event.target.dataset.case && light(event.target.dataset.case, false));
}

// The folder of the page, or one above it, as a shell reads it; the page itself holds no path.
if (location.protocol === "file:") {
  for (const slot of document.querySelectorAll("[data-folder]")) {
    const parts = decodeURIComponent(location.pathname).split("/").slice(0, -1 - Number(slot.dataset.folder));
    const folder = parts.join("/") || "/";
    slot.textContent = /^[\w@%+=:,./-]+$/.test(folder) ? folder : "'" + folder.replaceAll("'", "'\"'\"'") + "'";
  }
}

addEventListener("beforeprint", () => {
  for (const block of document.querySelectorAll("tr.why details")) block.open = true;
});
