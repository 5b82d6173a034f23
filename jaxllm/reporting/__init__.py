"""What a run was like, on one page: curves, samples, figures, and how runs differ."""
