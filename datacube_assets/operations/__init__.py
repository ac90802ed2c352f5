"""What an operator asks of a running system: how it is, what there is, what is wrong, what differs.

One module per question. Each answers with plain data that has `to_json`; how that reads in a terminal, and
which exit status follows, is in `cli/`.
"""
