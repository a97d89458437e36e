"""A saved model over HTTP: predictions, explanations, a page, metrics, and the Open Inference Protocol.

What a request says is checked and made a table of its own (`body`, `rows`, `pictures`), which never names a file of
this machine. Tables of requests that come within milliseconds go through the network together (`batcher`), and each is
answered by the model that was there when it came (`current`).
"""
