"""Everything that talks to the Hugging Face Hub; knows neither torch nor Lightning.

An adapter on its way: `adapter_snapshot` (with `card` and `privacy`) writes a `snapshot` into the `spool`; `worker`
starts an `attempt` in a process of its own, `push_process`, which makes a `commit` through a `client` with time-outs;
`errors` says whether to try again. The other way: `pull`. Pages as a dataset: `data`.
"""
