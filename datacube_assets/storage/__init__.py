"""The lake and the buckets: addresses, safe keys, publishing, manifests.

How bytes get to a folder or an S3 bucket and what was published earlier. The content of the bytes,
and the keys that the reader expects, belong in `kernels`; where the stores are is said in `settings.py`.
"""
