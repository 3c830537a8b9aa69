"""The DICOM network as a way in: a C-STORE and C-ECHO SCP on pynetdicom's protocol machine.

From the bottom up: `callers` and `contexts` say who and what is let in, `heading` writes what stands before a data set,
`committer` answers for the database and `reception` for an object as a whole. None of these knows a socket. `upper_layer`,
`association` and `server` are the shell around pynetdicom, `processes` what runs it.
"""
