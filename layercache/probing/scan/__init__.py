"""Every layer and token kind through closed-form heads, in one read of the cache.

api.py            scan()
plan.py           which tokens, subsets and rows, and what they cost
stream.py         one pass over a split: normalized tokens, block by block
token_moments.py  moments of every token and of the pairs that subsets need
gram.py           Gram matrices of samples, for subsets of more features than samples
solvers.py        ridge and lda of one subset, by moments or by Gram matrices
linear.py         a linear head, the settings of ridge and lda, the search among them
runner.py         the steps: read, search on the validation rows, refit, test
neighbors.py      nearest neighbors of all subsets
scores.py         outputs on the test rows to metrics with intervals
result.py         ScanResult
"""
