"""Codecs of tokens on the side of extraction: fitted on a sample of images, applied at the tap.

`sample` runs the backbone over some training images, `fit_codec` makes the tables of the codec of
their tokens, and `token_encoder` encodes on the device, before anything is copied to the host.
"""
