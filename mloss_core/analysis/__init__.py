"""Analysis of a merge: task vectors, traces, theory, leave one out, differences of maps."""
