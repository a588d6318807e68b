"""Before merging: M-Loss, cosine and sign conflict of sets of sources, and what they predict."""
