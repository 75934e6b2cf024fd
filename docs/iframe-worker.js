/* Search in pages that are opened from a folder: browsers start no Worker from file:, so a hidden frame runs its script. */
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.ready = new Promise((resolve) => { this.frame.onload = resolve; });
      this.frame.srcdoc = `<body><script>parent.IFrameWorker.prepare(self)</script><script src="${new URL(url, location)}"></script>`;
      IFrameWorker.newest = this;
      document.body.append(this.frame);
    }
    static prepare(frame) {
      const worker = IFrameWorker.newest;
      frame.postMessage = (data) => worker.dispatchEvent(new MessageEvent("message", { data }));
      frame.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((loaded, failed) => {
        const script = Object.assign(frame.document.createElement("script"), { src: url, onload: loaded, onerror: failed });
        frame.document.body.append(script);
      })), Promise.resolve());
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() { this.frame.remove(); }
  };
  window.Worker = window.IFrameWorker;
}
