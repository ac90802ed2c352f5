"""`python -m datacube_assets.cli`: the `datacube` command by its interpreter."""

from datacube_assets.cli import main

main()
