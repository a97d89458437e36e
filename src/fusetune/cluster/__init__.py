"""The same work on a cluster: predicting, encoding and looking at pictures, chunk by chunk, through Ray Data.

What a chunk computes is what one process computes of the same rows. Here is only what lies around it: rows are handed
out in chunks (`place`), each worker loads what it needs once and writes a file per chunk (`work`, `tasks`), Ray starts
workers and chunks anew that were lost (`engine`), and results are put together in order after all of them were checked
(`predicting`, `filling`).
"""
