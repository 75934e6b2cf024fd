"""An HTTP service for one model with its adapters, on LitServe; see ``docs/guides/serve.md``.

    request ──► endpoints (limits, JSON) ──► exchange ──► queue ──► preparation ──► decoder, rows refilled
    response ◄── JSON or a stream of tokens ◄── exchange ◄── queue ◄── texts ◄─────────┘

The endpoints run in one process, the model in another, whose main thread alone touches it. Pages are prepared in
threads there, beside a GPU in further processes.
"""
