#!/bin/sh
# A worker of Dask that outlives its scheduler: Dask ends one that has lost it, and here it begins again. So no
# container has to be started anew, for which Kubernetes and Docker wait longer each time. Arguments are those of
# `dask worker`.
trap 'kill "$worker"; wait "$worker"; exit' TERM INT
while :; do
    dask worker "$@" &
    worker=$!
    wait "$worker"
    sleep 1
done
