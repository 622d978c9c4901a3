"""To ArviZ and to netCDF.

`groups` makes datasets of plain NumPy arrays and names, and `container` hands them to whichever ArviZ is installed:
neither knows torch. `fitted` takes the arrays out of a posterior or a prior, `files` writes them down.
"""
