// Colours of the pack's own socket types. A palette that names one of them wins.
import { app } from "../../scripts/app.js"

const COLOURS = {
  STARCASTER_MODEL: "#c58af9",
  STARCASTER_IDENTITY: "#5bb8e8",
  STARCASTER_SPEECH: "#8fce6a",
  STARCASTER_CAMERA: "#e8b54a",
}

// The frontend empties the colour of every type that a palette does not name, each time one is chosen: so the colour is
// given where an empty one is read.
function keep(table) {
  for (const [type, colour] of Object.entries(COLOURS)) {
    let chosen = table[type]
    Object.defineProperty(table, type, {
      get: () => chosen || colour,
      set: (value) => (chosen = value),
      configurable: true,
      enumerable: true,
    })
  }
}

app.registerExtension({
  name: "starcaster.Colours",
  setup() {
    keep(app.canvas.default_connection_color_byType)
    keep(window.LGraphCanvas.link_type_colors)
    // Nodes 2.0 reads variables. A palette's own are set on the root element and win over a sheet's.
    const sheet = new CSSStyleSheet()
    const lines = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`)
    sheet.replaceSync(`:root { ${lines.join(" ")} }`)
    document.adoptedStyleSheets.push(sheet)
  },
})
