"""Hard evaluation of reduction plans: benchmarks, metrics, tables, plots."""
