"""What a report computes: gains, statistics, errors, similarity, attention."""
