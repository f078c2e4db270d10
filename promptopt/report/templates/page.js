"use strict";
// Turns the page's parts into tabs, and its copy buttons on. Without this all parts stand one below the other.
(() => {
  const nav = document.getElementById("tabs");
  const tabs = [...nav.querySelectorAll("a")];
  const panels = tabs.map((tab) => document.getElementById(tab.hash.slice(1)));
  nav.setAttribute("role", "tablist");
  const show = (i, focus) => {
    tabs.forEach((tab, j) => {
      tab.setAttribute("aria-selected", String(i === j));
      tab.tabIndex = i === j ? 0 : -1;
      panels[j].classList.toggle("closed", i !== j);
    });
    if (focus) tabs[i].focus();
    const tab = tabs[i];
    nav.scrollLeft = tab.offsetLeft - (nav.clientWidth - tab.offsetWidth) / 2;
  };
  const named = () => tabs.findIndex((tab) => tab.hash === location.hash);
  const open = (i, focus) => {
    show(i, focus);
    try { history.replaceState(null, "", tabs[i].hash); } catch { /* a page within a page has no address */ }
  };
  tabs.forEach((tab, i) => {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panels[i].id);
    panels[i].setAttribute("role", "tabpanel");
    tab.addEventListener("click", (event) => { event.preventDefault(); open(i, false); });
    tab.addEventListener("keydown", (event) => {
      const n = tabs.length;
      const to = { ArrowRight: (i + 1) % n, ArrowLeft: (i + n - 1) % n, Home: 0, End: n - 1, " ": i }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      open(to, true);
    });
  });
  addEventListener("hashchange", () => { const i = named(); if (i >= 0) show(i, false); });
  // a link within the page may point into a closed part
  document.querySelector("main").addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    const goal = link && document.getElementById(link.hash.slice(1));
    if (!goal) return;
    event.preventDefault();
    show(panels.findIndex((panel) => panel.contains(goal)), false);
    goal.closest("details")?.setAttribute("open", "");
    goal.scrollIntoView({ block: "center" });
    goal.classList.add("found");
    setTimeout(() => goal.classList.remove("found"), 2000);
  });
  show(Math.max(0, named()), false);
  document.documentElement.classList.add("tabbed");

  const copied = (text) => {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };
  document.querySelectorAll(".text:not(.no-copy)").forEach((box) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      const text = box.querySelector("pre").textContent;
      try { await navigator.clipboard.writeText(text); } catch { copied(text); }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  });
})();
