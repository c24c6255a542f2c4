(() => {
  "use strict";
  const plots = JSON.parse(document.getElementById("o9-plots").textContent);
  const mouse = matchMedia("(pointer: fine)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: mouse ? "hover" : false,
    modeBarButtons: [["resetScale2d", "toImage"]], // all others left out, and above all the one that shares a plot
    showSendToCloud: false,
    plotlyServerURL: "",
  };
  const places = Object.keys(plots).map((id) => document.getElementById(id));

  const fitted = (place, width) => (
    { autosize: false, width: Math.min(width, place.parentElement.clientWidth || width) }
  );

  // Plotly draws at once; only its promise comes later.
  const drawOne = (place, width) => {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const { data, layout } = plots[place.id];
    layout.dragmode = mouse ? "zoom" : false; // a finger scrolls the page
    if (layout.height) place.style.height = `${layout.height}px`;
    const failed = (error) => {
      console.error(error);
      place.textContent = `Not drawn: ${error.message}`;
      place.classList.add("missing");
    };
    try {
      const size = width ? { ...fitted(place, width), height: layout.height || place.clientHeight } : {};
      Plotly.newPlot(place, data, { ...layout, ...size }, config).catch(failed);
    } catch (error) {
      failed(error);
    }
  };

  const draw = async () => {
    for (const place of places) {
      drawOne(place);
      await new Promise((resume) => setTimeout(resume)); // the page stays alive meanwhile
    }
    document.documentElement.dataset.drawn = "yes";
  };

  // A printed page is narrower than most windows, has every plot, and no check is folded away.
  const PAPER = 640;
  let folded = [];
  const resize = (width) => places.forEach((place) => {
    if (!place.dataset.drawn) return drawOne(place, width);
    Plotly.relayout(place, width ? fitted(place, width) : { autosize: true, width: null });
  });
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details.score:not([open])")];
    folded.forEach((each) => { each.open = true; });
    resize(PAPER);
  });
  addEventListener("afterprint", () => {
    folded.forEach((each) => { each.open = false; });
    resize(null);
  });
  draw();
})();
