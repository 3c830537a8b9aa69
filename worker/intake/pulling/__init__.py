"""Fetching from a PACS: by the DICOM network or by DICOMweb.

`wanted` says what is asked for, `pace` how fast and when. `peer` is what a PACS has to be able to do, `dimse` and
`dicomweb` are the two kinds, and `pull` is the plan that they share: ask what is there, fetch what has not come yet, look in the
database whether it has.
"""
