"""Images to row blocks, every stage overlapping the others.

A batch crosses the files in one direction: `decode` (one image), `decoder` and `process_decoder`
(chunks of images, ahead of the forward, `shared_memory` between processes), `batching` (chunks to
batches), `forward` (batches to tokens; pooling is in `models.pooling`, at the tap), `async_writer`
(tokens to row blocks, behind the forward). `stream` connects them.
"""
