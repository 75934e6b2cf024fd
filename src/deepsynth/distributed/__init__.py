"""Several processes: supported combinations, ranks, sharding and strategies."""
