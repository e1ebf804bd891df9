"""What makes the evidence: comparison, scaling, zero-shot tasks, benchmarks, figures."""
