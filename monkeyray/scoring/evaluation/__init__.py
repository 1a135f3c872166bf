"""Compare predictions with labels: load the labelled predictions, measure, report."""
