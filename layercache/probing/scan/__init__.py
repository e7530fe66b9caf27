"""Every layer and token kind through closed-form heads, in one read of the cache.

api.py            scan()
plan.py           which tokens, subsets and rows, and what they cost
stream.py         one pass over a split: normalized tokens, block by block
token_moments.py  moments of every token and of the pairs that subsets need
fused.py          moments of one subset, in the smaller of samples and features
linear.py         ridge and lda of one subset: search on the validation rows, refit
votes.py          nearest neighbors of all subsets
scores.py         outputs on the test rows to metrics with intervals
result.py         ScanResult
"""
