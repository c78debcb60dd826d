// A JupyterLab extension in one file, in the form that JupyterLab loads ready-built extensions in (a container of
// webpack's module federation). It adds one file type: .py files named as notebooks/ names them, 01_ode_block.py.
// Which viewer opens the type by a double click is a setting (cunet/lab.py). All other .py files stay text.
(() => {
  const plugin = {
    id: "cunet-notebooks:plugin",
    description: "The file type of this repository's notebooks.",
    autoStart: true,
    activate: (app) =>
      app.docRegistry.addFileType(
        {
          name: "percent-notebook",
          displayName: "Notebook as Python file",
          pattern: "^\\d\\d_[a-z0-9_]+\\.py$",
          extensions: [],
          mimeTypes: ["text/x-python"],
          contentType: "file",
          fileFormat: "text",
        },
        ["Jupytext Notebook"],
      ),
  };
  const modules = { "./extension": () => ({ __esModule: true, default: plugin }) };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["cunet-notebooks"] = { init: () => {}, get: async (name) => modules[name] };
})();
