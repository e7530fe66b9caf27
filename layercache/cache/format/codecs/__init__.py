"""Codecs of tokens: how a token of D numbers is stored in fewer bytes, with a loss.

A codec has tables for every layer, fitted once on a sample of the training images and stored with
the cache (codec_file.py). `codec_spec` parses its name, such as "pq:64", and knows the shape of a
code; `token_codec` holds the tables, encodes and decodes.
"""
