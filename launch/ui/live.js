// Parts of a page that name an address are read again from there, for as long as somebody looks.
for (const part of document.querySelectorAll("[data-live]")) {
  let known = part.innerHTML;
  const again = async () => {
    try {
      const answer = document.hidden ? null : await fetch(part.dataset.live);
      const text = answer?.ok ? await answer.text() : known;
      const whole = new DOMParser().parseFromString(text, "text/html").getElementById(part.id);
      const fresh = whole?.innerHTML ?? text;
      part.dataset.every = whole?.dataset.every ?? part.dataset.every;
      if (fresh !== known) {
        const open = [...part.querySelectorAll("details")].map((one) => one.open);
        part.innerHTML = known = fresh;
        part.querySelectorAll("details").forEach((one, at) => (one.open = open[at] ?? one.open));
      }
    } catch {
      // Whoever answers may be back in a moment.
    }
    setTimeout(again, 1000 * part.dataset.every);
  };
  setTimeout(again, 1000 * part.dataset.every);
}
