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

  const draw = async () => {
    for (const place of places) {
      const { data, layout } = plots[place.id];
      layout.dragmode = mouse ? "zoom" : false; // a finger scrolls the page
      if (layout.height) place.style.height = `${layout.height}px`;
      try {
        await Plotly.newPlot(place, data, layout, config);
        place.dataset.drawn = "yes";
      } catch (error) {
        console.error(error);
        place.textContent = `Not drawn: ${error.message}`;
        place.classList.add("missing");
      }
      await new Promise((resume) => setTimeout(resume)); // the page stays alive meanwhile
    }
    document.documentElement.dataset.drawn = "yes";
  };

  // A printed page is narrower than most windows.
  const resize = (width) => places.filter((place) => place.dataset.drawn).forEach((place) => {
    const fit = width && Math.min(width, place.parentElement.clientWidth || width);
    Plotly.relayout(place, fit ? { autosize: false, width: fit } : { autosize: true, width: null });
  });
  addEventListener("beforeprint", () => resize(640));
  addEventListener("afterprint", () => resize(null));
  draw();
})();
