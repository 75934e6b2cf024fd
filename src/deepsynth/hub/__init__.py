"""Everything that talks to the Hugging Face Hub; imports neither torch nor Lightning.

Pushing an adapter: ``adapter`` (with ``privacy``) writes a ``snapshot`` into the ``spool``; ``worker`` starts
``push_process``, a separate process that makes one ``commit`` through a ``client`` with time-outs. Downloading an
adapter: ``pull``. Rendered pages as a dataset: ``data``.
"""
