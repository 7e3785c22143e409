// What changes on a page comes by itself: the hub says that something did, and the marked parts are read again. Pages are whole without it.
const parts = () => [...document.querySelectorAll("[data-live]")];
let busy = false;
async function refresh() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = [...page.querySelectorAll("[data-live]")];
    if (fresh.length !== parts().length) return location.reload();
    parts().forEach((part, i) => {
      const focus = part.contains(document.activeElement) ? document.activeElement : null;
      if (part.innerHTML === fresh[i].innerHTML || part.querySelector("details[open]") || (focus && focus.matches("input, textarea, select"))) return;
      const href = focus && focus.getAttribute("href");
      part.replaceWith(fresh[i]);
      if (href) [...fresh[i].querySelectorAll("a")].find((a) => a.getAttribute("href") === href)?.focus({ preventScroll: true });
    });
  } catch { /* the hub does not answer: EventSource tries again, and the next word of it reads the page */ } finally { busy = false; }
}
if (parts().length) {
  const source = new EventSource("/live");
  source.addEventListener("changed", refresh);
  document.addEventListener("visibilitychange", refresh);
}
